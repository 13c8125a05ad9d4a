"""Rules see one node; the engine counts what they change and keeps why they decline."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten, call_like, calls
from qpass.graph.fx_rule import FxRule, fx_rule
from qpass.graph.rewrite import Decline, NearMatch
from qpass.passes.rules import RULES


class Sums(nn.Module):
    """x + 1, x + 2 and x + 3; the second in a submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Module()
        self.inner.forward = lambda x: x + 2

    def forward(self, x: Tensor) -> Tensor:
        return (x + 1) * self.inner(x) * (x + 3)


@fx_rule(aten.add.Tensor)
def subtract(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """x + n -> x - (-n), but not for 3, and reluctantly for 2."""
    x, number = node.args
    if number == 2:
        raise Decline("it adds two")
    return None if number == 3 else call_like(graph_module, node, aten.sub.Tensor, x, -number)  # type: ignore[operator]


def test_it_replaces_counts_and_keeps_the_reason() -> None:
    graph, x = trace(Sums(), (torch.zeros(2, 3),)), torch.rand(2, 3)
    two = [node.name for node in calls(graph, aten.add.Tensor) if node.args[1] == 2]
    outcome = subtract.apply(graph)
    graph.recompile()
    assert outcome.count == 1
    assert outcome.declined == (NearMatch("subtract", *two, "inner", "it adds two"),)
    assert str(outcome.declined[0]) == f"subtract declined {two[0]} in inner: it adds two"
    assert [node.args[1] for node in calls(graph, aten.sub.Tensor, aten.add.Tensor)] == [-1, 2, 3]
    torch.testing.assert_close(graph(x), (x + 1) * (x + 2) * (x + 3))


def test_a_rule_that_returns_its_node_changed_it_in_place() -> None:
    @fx_rule(aten.add.Tensor)
    def three(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
        if node.args[1] != 1:
            return None
        node.args = (node.args[0], 5)
        return node

    graph = trace(Sums(), (torch.zeros(2, 3),))
    assert three.apply(graph).count == 1
    assert [node.args[1] for node in calls(graph, aten.add.Tensor)] == [5, 2, 3]


@pytest.mark.parametrize(("operator", "times"), [(aten.add.Tensor, 1), (aten.relu.default, 0)])
def test_what_a_rule_must_know_is_prepared_once_and_only_for_candidates(operator: object, times: int) -> None:
    made, seen = [], []

    def prepare(graph_module: fx.GraphModule) -> str:
        made.append(graph_module)
        return "known"

    @fx_rule(operator, prepare=prepare)
    def look(graph_module: fx.GraphModule, node: fx.Node, known: str) -> None:
        seen.append(known)

    look.apply(trace(Sums(), (torch.zeros(2, 3),)))
    assert len(made) == times
    assert seen == ["known"] * 3 * times


class Repeated(nn.Module):
    """As many joined constants, products, biases, masks and slices as wanted."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        for index in range(count):
            self.register_buffer(f"c{index}", torch.rand(4))
            self.register_buffer(f"w{index}", torch.rand(4, 4))
            self.register_buffer(f"m{index}", torch.tensor([True, False, True, True]))

    def forward(self, x: Tensor) -> Tensor:
        for index in range(self.count):
            c, w, m = (getattr(self, f"{name}{index}") for name in "cwm")
            x = (x @ w + torch.cat([c[:2], c[2:] * 2]))[:, :]
            x = x + x[:, m].sum()
        return x


def python_calls(work: Callable[[], object]) -> int:
    """Returns the number of calls of Python functions, which is the same on every machine."""
    count = 0

    def tick(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(tick)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_twice_the_nodes_take_twice_the_work() -> None:
    graphs = [trace(Repeated(count).eval(), (torch.rand(2, 4),)) for count in (10, 20)]
    applied = 0
    for rule in RULES:
        outcomes = []

        def run(rule: FxRule = rule, outcomes: list[int] = outcomes, *, which: int) -> None:
            outcomes.append(rule.apply(graphs[which]).count)

        small, large = (python_calls(lambda which=which: run(which=which)) for which in (0, 1))
        assert large < 2.1 * small, (rule.name, small, large)
        assert outcomes[1] == 2 * outcomes[0]
        applied += outcomes[0]
    assert applied >= 10 * 5
