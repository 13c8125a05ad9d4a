"""Agreement of largest class scores, counted again by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.data import ModelInputs
from qpass.report.agreement import AGREEMENT_SAMPLES, top1_agreement
from qpass.report.data import Agreement
from tests.models import DictModel


class Outputs(nn.Module):
    """A Linear, and what is made of it."""

    def __init__(self, of: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.layer, self.of = nn.Linear(8, 4), of

    def forward(self, x: Tensor) -> object:
        return self.of(self.layer(x))


def test_counts_are_those_of_the_models(quantized_4bit: fx.GraphModule, vit: nn.Module, images: Tensor) -> None:
    same = int((vit(images).argmax(1) == quantized_4bit(images).argmax(1)).sum())
    assert qpass.quantization_report(quantized_4bit).agreement == Agreement(same, 8, 10)


def test_as_many_samples_as_needed_are_run(quantized: fx.GraphModule, quantized_4bit: fx.GraphModule) -> None:
    x = torch.randn(100, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    batches = [ModelInputs((part,), {}) for part in x.split(40)]
    first, second = (graph(x[:AGREEMENT_SAMPLES]).argmax(1) for graph in (quantized, quantized_4bit))
    assert top1_agreement(quantized, quantized_4bit, batches) == Agreement(int((first == second).sum()), AGREEMENT_SAMPLES, 10)


@pytest.mark.parametrize(
    ("model", "x", "classes"),
    [
        (nn.Sequential(nn.Linear(8, 3), nn.LayerNorm(3)).eval(), torch.randn(2, 8), None),
        (DictModel().eval(), torch.randn(2, 8), 4),
        (nn.Sequential(nn.Linear(8, 3), nn.Softmax(-1)).eval(), torch.randn(2, 8), 3),
        (Outputs(lambda y: (y / 2, y.relu())).eval(), torch.randn(2, 8), 4),
        (Outputs(lambda y: y / y.norm(dim=-1, keepdim=True)).eval(), torch.randn(2, 8), None),
        (Outputs(lambda y: (y, y * 2)).eval(), torch.randn(2, 8), None),
        (nn.Linear(8, 1).eval(), torch.randn(2, 8), None),
        (nn.Linear(8, 4).eval(), torch.randn(2, 5, 8), None),
    ],
    ids=["features", "logits of a dict", "probabilities", "scaled", "embedding", "two", "one number", "a sequence"],
)
def test_only_class_scores_are_compared(model: nn.Module, x: Tensor, classes: int | None) -> None:
    found = qpass.quantization_report(qpass.quantize_graph(model, [x], "w8a8", progress=False)).agreement
    assert (None if found is None else found.classes) == classes


def test_the_interval_is_wilson_s() -> None:
    assert Agreement(8, 10, 2).interval == pytest.approx((0.4902, 0.9433), abs=1e-4)  # Wilson (1927), as tabulated
    assert Agreement(10, 10, 2).interval == pytest.approx((0.7225, 1.0), abs=1e-4)
