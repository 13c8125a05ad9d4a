from __future__ import annotations

import pytest
import torch

from qpass.observers import ProductObserver
from qpass.quantizers import Uniform
from qpass.runtime.storage import Storage
from tests.live_bytes import LiveBytes


def test_criterion_is_the_squared_error_of_the_product() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 3, 8, 8, generator=generator).softmax(-1), torch.randn(2, 3, 8, 4, generator=generator)
    observer = ProductObserver("attention", samples=100, rows=8)
    observer.update(a, b)
    quantizer = Uniform(3).fit(a)
    expected = ((quantizer(a).double() @ b.double()) - a.double() @ b.double()).square().sum().item()
    assert observer.criterion()(quantizer) == pytest.approx(expected, rel=1e-4)


def test_memory_is_bounded_and_several_batches_are_heard() -> None:
    observer = ProductObserver("attention", samples=12, rows=4)
    for _ in range(50):
        observer.update(torch.rand(8, 16, 16), torch.rand(8, 16, 5))
    kept = observer.pairs
    assert sum(len(a) for a, _ in kept) == 12
    assert len(kept) == 4
    assert kept[0][0].shape == (3, 4, 16)


def test_samples_lie_in_the_storage() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.rand(8, 512, 512, generator=generator), torch.rand(8, 512, 64, generator=generator)) for _ in range(3)]
    in_memory, on_disk = ProductObserver("attention"), ProductObserver("attention", storage=Storage(0))
    with LiveBytes() as live:
        for batch in batches:
            on_disk.update(*batch)
        assert live.now < 2**16, "nothing stays"
    for batch in batches:
        in_memory.update(*batch)
    for pair, other in zip(on_disk.pairs, in_memory.pairs, strict=True):
        assert all(map(torch.equal, pair, other))
