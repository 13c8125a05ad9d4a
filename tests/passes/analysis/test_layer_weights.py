"""Weights are read once, changed in float64, and written back where they changed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten, calls, finish
from qpass.passes.analysis.layer_weights import LayerWeights


class Layers(nn.Module):
    """Two Linears of one weight, a convolution, and a Linear whose bias broadcasts."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shared, self.conv = nn.Linear(4, 4, bias=False), nn.Conv1d(4, 6, 1)
        self.wide, self.number = nn.Parameter(torch.randn(3, 6)), nn.Parameter(torch.randn(1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.shared(self.shared(x)).mT).mT
        return F.linear(y, self.wide, self.number)


@pytest.fixture
def graph() -> fx.GraphModule:
    return trace(Layers().eval(), (torch.randn(2, 5, 4),))


def test_layers_with_constant_weights_are_read(graph: fx.GraphModule) -> None:
    weights = LayerWeights(graph)
    first, second, odd = calls(graph, aten.linear.default)
    (conv,) = calls(graph, aten.conv1d.default)
    assert [weights.read(node) for node in (first, second, conv, odd)] == [True, True, True, False]
    assert not weights.read(next(iter(graph.graph.nodes)))
    weight, bias = weights[conv]
    assert (weight.shape, weight.dtype, bias.shape) == ((6, 4), torch.float64, (6,))
    assert torch.equal(weights[first][1], torch.zeros(4))


def test_what_did_not_change_is_not_written(graph: fx.GraphModule) -> None:
    weights = LayerWeights(graph)
    names = set(graph.state_dict())
    for node in calls(graph, aten.linear.default, aten.conv1d.default):
        weights.read(node)
    assert weights.write("turned") is False
    assert set(graph.state_dict()) == names


def test_a_change_is_of_one_layer_alone(graph: fx.GraphModule) -> None:
    """Layers that share a weight do not share the change, and the model's own weight stays."""
    x, model = torch.randn(2, 5, 4), Layers().eval()
    weights = LayerWeights(graph)
    first, second, _ = calls(graph, aten.linear.default)
    (conv,) = calls(graph, aten.conv1d.default)
    for node in (first, second, conv):
        weights.read(node)
    weights[first][0].mul_(2)
    weights[first][1].add_(3)
    weights[conv][1].zero_()
    assert weights.write("turned") is True
    finish(graph)
    y = model.shared(2 * model.shared(x) + 3)
    expected = F.linear(F.conv1d(y.mT, model.conv.weight).mT, model.wide, model.number)
    torch.testing.assert_close(graph(x), expected, rtol=1e-5, atol=1e-5)
    assert any("turned_weight" in name for name in graph.state_dict())
