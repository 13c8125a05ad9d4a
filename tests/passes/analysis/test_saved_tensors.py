"""Derivatives through a storage are those through memory, to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from qpass.passes.analysis.saved_tensors import saved_in
from qpass.runtime.storage import SpilledTensor, Storage


class Strided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x.transpose(0, 1)).exp()
        return self.two(y * y[:, :1].expand_as(y)).tanh().permute(1, 2, 0).square().sum()


@pytest.mark.parametrize("limit", [0, 10**9], ids=["on disk", "in memory"])
def test_the_gradients_are_the_same_bits(limit: int) -> None:
    x = torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(0))
    plain, kept = Strided(), Strided()
    plain(x).backward()
    with saved_in(Storage(limit), kept):
        loss = kept(x)
    loss.backward()
    for a, b in zip(plain.parameters(), kept.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.equal(a.grad, b.grad)


def test_parameters_stay_where_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    storage, model, kept = Storage(10**9), Strided(), list[int]()
    keep = storage.keep

    def record(tensor: Tensor) -> SpilledTensor:
        kept.append(tensor.untyped_storage().data_ptr())
        return keep(tensor)

    monkeypatch.setattr(storage, "keep", record)
    with saved_in(storage, model):
        model(torch.randn(5, 4, 6, requires_grad=True)).backward()
    assert kept
    assert not {p.untyped_storage().data_ptr() for p in model.parameters()} & set(kept)
