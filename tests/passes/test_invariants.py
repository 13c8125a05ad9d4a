"""Each invariant of a stage is broken once, and named."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import fx, nn

import qpass
from qpass.errors import PassError
from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten, get_plan, set_plan
from qpass.graph.facts import update_facts
from qpass.nn import QuantizedLayer
from qpass.passes import STAGES
from qpass.passes.invariants import check_invariants
from qpass.passes.plan import LayerPlan
from qpass.quantizers import Quantizer

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def frozen() -> fx.GraphModule:
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4)).eval()
    return qpass.quantize_graph(model, [X], "w8a8", progress=False)


def layer_node(graph: fx.GraphModule) -> fx.Node:
    return next(node for node in graph.graph.nodes if isinstance(get_plan(node), LayerPlan))


def forget_a_result(graph: fx.GraphModule) -> None:
    node = next(node for node in graph.graph.nodes if node.op == "call_function" and node.users)
    for key in ("result", "shape"):
        node.meta.pop(key, None)


def use_a_view(graph: fx.GraphModule) -> None:
    node = next(node for node in graph.graph.nodes if node.op == "call_function" and node.users)
    node.target = aten.view.default


def forget_the_recipe(graph: fx.GraphModule) -> None:
    update_facts(graph, config=None)


def plan_an_operand_that_is_not_there(graph: fx.GraphModule) -> None:
    node = layer_node(graph)
    plan = get_plan(node)
    set_plan(node, dataclasses.replace(plan, operands=(dataclasses.replace(plan.operands[0], index=7, spec=None),)))


def write_a_plan_of_another_kind(graph: fx.GraphModule) -> None:
    set_plan(layer_node(graph), "quantize this")


def leave_an_operand_float(graph: fx.GraphModule) -> None:
    node = layer_node(graph)
    quantizer = node.args[0]
    assert isinstance(quantizer, fx.Node)
    node.args = (quantizer.args[0],)


def leave_a_weight_float(graph: fx.GraphModule) -> None:
    layer = graph.get_submodule(str(layer_node(graph).target))
    assert isinstance(layer, QuantizedLayer)
    layer.codes = None


def switch_a_quantizer_off(graph: fx.GraphModule) -> None:
    next(module for module in graph.modules() if isinstance(module, Quantizer)).enabled = False


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (forget_a_result, "the output of .* is not recorded"),
        (use_a_view, "is a view"),
        (forget_the_recipe, "no recipe is noted"),
        (plan_an_operand_that_is_not_there, "names operand 7, which it does not have"),
        (write_a_plan_of_another_kind, "has a plan of type str"),
        (leave_an_operand_float, "operand 0 of .* is not quantized"),
        (leave_a_weight_float, "has a float weight"),
        (switch_a_quantizer_off, "is switched off"),
    ],
)
def test_what_does_not_hold_is_named(break_it: Callable[[fx.GraphModule], None], message: str, frozen: fx.GraphModule) -> None:
    check_invariants(frozen, "frozen")
    broken = copy.deepcopy(frozen)
    break_it(broken)
    with pytest.raises(PassError, match=message):
        check_invariants(broken, "frozen")


def test_what_belongs_to_a_later_stage_is_not_asked_for() -> None:
    graph = trace(nn.Sequential(nn.Linear(8, 8), nn.GELU()).eval(), (X,))
    check_invariants(graph, STAGES[0])
    with pytest.raises(PassError, match="no recipe is noted"):
        check_invariants(graph, "annotated")
