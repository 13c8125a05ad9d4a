from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.config import QuantConfig
from qpass.data import ModelInputs
from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten, calls
from qpass.passes import Annotate, Calibrate, Canonicalize, FoldLayerNorm, InsertQuantizers, RefitQuantizers
from qpass.passes.analysis.reference import float_reference
from qpass.passes.analysis.statistics import Statistics
from qpass.passes.fold_layer_norm import channel_wise_norms
from tests.learning import UNCOMPENSATED


def fitted(model: nn.Module, x: Tensor, config: str = "w4a4") -> fx.GraphModule:
    graph, statistics = trace(model, (x,)), Statistics()
    batches = [ModelInputs((x,), {})]
    for step in (
        Canonicalize(),
        Annotate(QuantConfig.from_any(config)),
        Calibrate(batches, statistics, per_channel=True),
        InsertQuantizers(statistics),
        RefitQuantizers(batches, statistics),
    ):
        step(graph)
    return graph


class Norm(nn.Module):
    """LayerNorm and two Linears, with an uneven and a dead channel."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(16)
        nn.init.uniform_(self.norm.weight, 0.1, 5)
        nn.init.normal_(self.norm.bias, std=3)
        self.norm.weight.data[3] = 0  # constant over the data: its bias
        self.norm.weight.data[4] = self.norm.bias.data[4] = 0  # all zero
        self.one, self.two = nn.Linear(16, 8), nn.Linear(16, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return self.one(y.roll(1, 1)) + self.two(y)


@pytest.mark.parametrize("target", ["mean", "median"])
def test_layer_wise_after_equals_channel_wise_before_exactly(target: str) -> None:
    """The property that the paper states, to the code, with channels far from zero and dead ones."""
    x = torch.randn(64, 5, 16, generator=torch.Generator().manual_seed(1))
    graph = fitted(Norm().eval(), x)
    ((norm, (quantizer, _)),) = channel_wise_norms(graph).items()
    channel = copy.deepcopy(graph.get_submodule(str(quantizer.target)))
    before = fx.Interpreter(graph, garbage_collect_values=False)
    before.run(x)
    FoldLayerNorm(target)(graph)
    (norm_after,) = calls(graph, aten.layer_norm.default)
    after = fx.Interpreter(graph, garbage_collect_values=False)
    after.run(x)

    layer = graph.get_submodule(str(quantizer.target))
    old, new = before.env[norm], after.env[norm_after]
    position = old.double() / channel.scale
    off_tie = (position - position.floor() - 0.5).abs() > 1e-4
    assert torch.equal(channel.codes(old)[off_tie], layer.codes(new)[off_tie])
    assert off_tie.double().mean() > 0.99
    assert float(layer.zero_point) == int(layer.zero_point)
    assert 0 <= layer.zero_point <= 15


@pytest.mark.parametrize(("target", "statistic"), [("mean", np.mean), ("median", lambda scales: np.sort(scales)[7])])
def test_the_target_is_the_mean_or_the_lower_median_of_the_scales(target: str, statistic: Callable[..., float]) -> None:
    graph = fitted(Norm().eval(), torch.randn(64, 5, 16, generator=torch.Generator().manual_seed(1)))
    ((_, (quantizer, _)),) = channel_wise_norms(graph).items()
    channel = graph.get_submodule(str(quantizer.target))
    scales, zeros = channel.scale.double().numpy(), channel.zero_point.numpy()
    assert abs(np.mean(scales) / np.median(scales) - 1) > 0.01, "so that one is not the other"
    FoldLayerNorm(target)(graph)
    layer = graph.get_submodule(str(quantizer.target))
    assert layer.scale.item() == pytest.approx(statistic(scales), rel=1e-6)
    assert layer.zero_point.item() == np.clip(np.round(np.mean(zeros)), 0, 15)


@pytest.mark.parametrize("target", ["mean", "median"])
def test_the_float_function_is_kept(target: str) -> None:
    x = torch.randn(32, 5, 16, generator=torch.Generator().manual_seed(1))
    model = Norm().eval()
    graph = float_reference(fitted(model, x))
    assert FoldLayerNorm(target)(graph) is True
    fresh = torch.randn(7, 5, 16)
    torch.testing.assert_close(graph(fresh), model(fresh), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_without_training_the_target_cancels(vit: nn.Module, images: Tensor) -> None:
    """Any positive target gives the same quantized network: it is only a unit (but damping, which error feedback has, has none)."""

    def output(target: str | None) -> Tensor:
        config = {"preset": "w6a6", **UNCOMPENSATED, "fold_layer_norm": target}
        return qpass.quantize_graph(vit, [images], config, progress=False)(images)

    mean, median, unfolded = output("mean"), output("median"), output(None)
    assert (mean - median).norm() < 0.1 * (mean - unfolded).norm(), "only ties may differ"


def test_a_norm_with_another_reader_is_left_alone() -> None:
    class Shared(Norm):
        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x)
            return self.one(y) + y[..., :8]

    graph = fitted(Shared().eval(), torch.randn(8, 5, 16))
    assert channel_wise_norms(graph) == {}
    assert FoldLayerNorm("mean")(graph) is False
