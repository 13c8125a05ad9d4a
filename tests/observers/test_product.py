from __future__ import annotations

import pytest
import torch

from qpass.observers import ProductObserver
from qpass.quantizers import Uniform


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
