"""What attention multiplies is named by what it is, whatever its order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.report.data import TensorRow


class Attention(nn.Module):
    """Attention whose queries, keys and values have different magnitudes: 1, 10 and 100."""

    def __init__(self, *, keys_first: bool, twice: bool = False) -> None:
        super().__init__()
        self.keys_first, self.twice = keys_first, twice
        self.mix = nn.Linear(8, 8)

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = x.tanh(), 10 * x.tanh(), 100 * x.tanh()
        if self.keys_first:
            weights = (k @ q.transpose(-2, -1) / 3).softmax(-2).transpose(-2, -1)
        else:
            weights = (q @ k.transpose(-2, -1) / 3).softmax(-1)
        return weights @ v

    def forward(self, x: Tensor) -> Tensor:
        y = self.mix(self.attend(x))
        return self.mix(self.attend(y)) if self.twice else y


def rows_of(model: nn.Module) -> dict[str, TensorRow]:
    x = torch.randn(8, 5, 8, generator=torch.Generator().manual_seed(0))
    report = qpass.quantization_report(qpass.quantize_graph(model.eval(), [x], "w8a8", progress=False))
    assert [row.part for row in report.layers if row.kind == "matmul"][:2] in (["QKᵀ", "AV"], ["QKᵀ #1", "AV #1"])
    return {row.part: row for row in report.tensors if row.kind == "activation"}


@pytest.mark.parametrize("keys_first", [False, True])
def test_factors_are_told_apart_by_their_values(keys_first: bool) -> None:
    rows = rows_of(Attention(keys_first=keys_first))
    assert {part: round(row.high) for part, row in rows.items() if part in "QKV"} == {"Q": 1, "K": 10, "V": 100}
    assert rows["Softmax"].low >= 0
    assert rows["Softmax"].high <= 1
    assert rows["Softmax"].readers == (("", "post_softmax"),)
    assert rows["Q"].label == "(model) · Q"
    assert rows["input"].readers == (("mix", "activation"),)


def test_a_module_that_attends_twice_has_numbers() -> None:
    rows = rows_of(Attention(keys_first=False, twice=True))
    assert {"Softmax #1", "Softmax #2", "V #1", "V #2"} <= rows.keys()


def test_no_two_layers_have_the_same_name(quantized: fx.GraphModule) -> None:
    report = qpass.quantization_report(quantized)
    for rows in (report.layers, report.tensors):
        labels = [row.label for row in rows]
        assert len(set(labels)) == len(labels)
    assert "blocks.0.attn · QKᵀ" in [row.label for row in report.layers]
    assert "blocks.1.attn · Softmax" in [row.label for row in report.tensors]
