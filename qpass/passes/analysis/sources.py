"""Where in the graph the tensor of an operand is quantized."""

from __future__ import annotations

from typing import Any

from torch import fx

from qpass.graph.edit import MOVEMENT_OPS, called_module, input_node, is_call
from qpass.passes.plan import LayerPlan, OperandPlan
from qpass.quantizers import Quantizer


def quantization_point(node: fx.Node, plan: LayerPlan, operand: OperandPlan) -> fx.Node:
    """Returns the node whose output gets the quantizer of an operand.

    For a matmul, this is the tensor before it is moved, so that transposes move bytes rather than
    floats, unless the plan says otherwise. For a Linear, it is the operand itself: its quantizer
    belongs after the merge of the heads.
    """
    point = input_node(node, operand.index)
    if plan.kind != "matmul" or operand.where_read:
        return point
    while is_call(point, *MOVEMENT_OPS) and len(point.users) == 1:
        point = input_node(point, 0)
    return point


def planned_operands(graph_module: fx.GraphModule) -> list[tuple[fx.Node, LayerPlan, OperandPlan]]:
    """Returns every operand that is to be quantized, in order of execution."""
    return [
        (node, plan, operand)
        for node in graph_module.graph.nodes
        if isinstance(plan := node.meta.get("qpass"), LayerPlan)
        for operand in plan.operands
        if operand.spec is not None
    ]


def planned_outputs(graph_module: fx.GraphModule) -> list[fx.Node]:
    """Returns every layer whose output is to be quantized, in order of execution."""
    return [
        node
        for node in graph_module.graph.nodes
        if isinstance(plan := node.meta.get("qpass"), LayerPlan) and plan.output is not None
    ]


def quantizer_node(operand: Any) -> fx.Node:
    """Returns the quantizer of an operand, looking through movements."""
    assert isinstance(operand, fx.Node)
    return operand if operand.op == "call_module" else quantizer_node(operand.args[0])


def quantizer_of(graph_module: fx.GraphModule, x: Any) -> Quantizer | None:
    """Returns the quantizer that a value comes from, through movement operators only, or None."""
    while is_call(x, *MOVEMENT_OPS):
        x = x.args[0]
    module = called_module(graph_module, x)
    return module if isinstance(module, Quantizer) else None
