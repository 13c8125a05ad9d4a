"""The layers that an error may come from: what a wrong result needs, and no right one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.backends.onnxruntime.suspects import suspects


class Fork(nn.Module):
    """Two Linears of one input, whose sum and whose second go on."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.sum, self.second = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.b(x)
        return self.sum(self.a(x) + y), self.second(y)


@pytest.fixture(scope="module")
def graph() -> fx.GraphModule:
    torch.manual_seed(0)
    return qpass.quantize_graph(Fork().eval(), [torch.randn(16, 8)], progress=False)  # type: ignore[return-value]


def names(graph: fx.GraphModule) -> tuple[str, str, str]:
    """The quantizers of the input, of the sum and of the second Linear's output."""
    calls = [node for node in graph.graph.nodes if node.op == "call_module" and str(node.target).endswith("quantizer")]
    of_input, *rest = sorted(calls, key=lambda node: node.all_input_nodes[0].op != "placeholder")
    of_sum = next(node for node in rest if "add" in node.all_input_nodes[0].name)
    (of_second,) = [node for node in rest if node is not of_sum]
    return str(of_input.target), str(of_sum.target), str(of_second.target)


def test_a_right_result_clears_what_it_needs(graph: fx.GraphModule) -> None:
    given, total, second = names(graph)
    order = [str(n.target) for n in graph.graph.nodes if str(n.target) in (total, second)]
    assert order == [second, total] or order == [total, second]
    found = suspects(graph, [total], [given, second])[total]
    layers = [name for name in found if name.endswith("quantized")]
    if order[0] == second:
        assert layers == ["a_quantized"], "the other gave right codes before"
    else:
        assert set(layers) == {"a_quantized", "b_quantized"}, "what comes later clears nothing"


def test_without_a_right_one_all_that_it_needs_is_named(graph: fx.GraphModule) -> None:
    given, total, _ = names(graph)
    found = suspects(graph, [total], [given])[total]
    assert {"a_quantized", "b_quantized", given} <= set(found)


def test_outputs_are_ends_too(graph: fx.GraphModule) -> None:
    given, total, second = names(graph)
    found = suspects(graph, [0], [given, total, second, 1])
    assert [name for name in found[0] if name.endswith("quantized")] == ["sum_quantized"]
    assert list(found) == [0]


def test_layers_that_right_results_need_as_well_are_named_all_the_same(graph: fx.GraphModule) -> None:
    given, total, second = names(graph)
    found = suspects(graph, [total, second], [given])
    assert "b_quantized" in found[second]
