"""What a fingerprint notices, and what it does not mind."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import fx, nn

from qpass.graph.edit import aten, set_plan
from qpass.passes.fingerprint import fingerprint


@pytest.fixture
def graph() -> fx.GraphModule:
    traced = fx.symbolic_trace(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval())
    traced.register_buffer("extra", torch.zeros(2))
    return traced


def call_once_more(graph: fx.GraphModule) -> None:
    output = next(node for node in graph.graph.nodes if node.op == "output")
    with graph.graph.inserting_before(output):
        graph.graph.call_function(aten.relu.default, (output.args[0],))


def replace_weight(graph: fx.GraphModule) -> None:
    weight = graph.get_submodule("0").weight
    graph.get_submodule("0").weight = nn.Parameter(weight.detach().clone())  # the same values in another tensor


CHANGES: dict[str, Callable[[fx.GraphModule], object]] = {
    "a node": call_once_more,
    "a plan": lambda graph: set_plan(next(iter(graph.graph.nodes)), "plan"),
    "a value": lambda graph: graph.extra.add_(0),
    "a tensor": replace_weight,
    "a name": lambda graph: graph.register_buffer("more", torch.zeros(1)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_noticed(graph: fx.GraphModule, change: str) -> None:
    before = fingerprint(graph)
    assert fingerprint(graph) == before
    with torch.no_grad():
        CHANGES[change](graph)
    assert fingerprint(graph) != before


def test_a_run_changes_nothing(graph: fx.GraphModule) -> None:
    before = fingerprint(graph)
    graph(torch.randn(4, 3))
    assert fingerprint(graph) == before
    assert before != "a text"


def test_a_tensor_that_is_gone_equals_none(graph: fx.GraphModule) -> None:
    """Another tensor may take its place in memory, and with it its identity."""
    before = fingerprint(graph)
    del graph.extra
    graph.register_buffer("extra", torch.zeros(2))
    assert fingerprint(graph) != before
