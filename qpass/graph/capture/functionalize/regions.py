"""Inlines regions that torch.export wraps (gradient modes, autocast, checkpoints) for the passes."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from qpass.graph.edit import aten, fetch, is_call

#: By name: not every torch version has all of them. Without gradients, each just runs its body.
_WRAPPERS = (
    *("wrap_with_set_grad_enabled", "wrap_with_autocast", "wrap_activation_checkpoint", "tag_activation_checkpoint"),
    *("wrap", "strict_mode", "invoke_subgraph"),
)


def is_region(node: fx.Node) -> bool:
    """Returns whether a node calls an operator that runs subgraphs, such as ``cond``."""
    return node.op == "call_function" and isinstance(node.target, torch._ops.HigherOrderOperator)


def region_linears(graph_module: fx.GraphModule, node: fx.Node) -> int:
    """Returns the number of Linears in a region's subgraphs, including nested ones."""
    bodies = [body for argument in node.all_input_nodes if (body := _body(graph_module, argument)) is not None]
    return sum(
        sum(
            region_linears(body, inner) if is_region(inner) else is_call(inner, aten.linear.default)
            for inner in body.graph.nodes
        )
        for body in bodies
    )


def inline_regions(graph_module: fx.GraphModule) -> None:
    """Inlines every region that only runs its body, including nested ones; ``cond``, ``map`` etc. stay."""
    while regions := [node for node in graph_module.graph.nodes if _is_wrapper(node)]:
        for node in regions:
            _inline(graph_module, node)


def _is_wrapper(node: fx.Node) -> bool:
    return is_region(node) and node.target._name in _WRAPPERS  # type: ignore[union-attr]


def _body(graph_module: fx.GraphModule, argument: Any) -> fx.GraphModule | None:
    value = fetch(graph_module, str(argument.target)) if isinstance(argument, fx.Node) and argument.op == "get_attr" else None
    return value if isinstance(value, fx.GraphModule) else None


def _inline(graph_module: fx.GraphModule, node: fx.Node) -> None:
    index = next(index for index, argument in enumerate(node.args) if _body(graph_module, argument) is not None)
    attribute = node.args[index]
    assert isinstance(attribute, fx.Node)
    body = _body(graph_module, attribute)
    assert body is not None
    inputs = [inner for inner in body.graph.nodes if inner.op == "placeholder"]
    operands = node.args[len(node.args) - len(inputs) :]
    copies: dict[fx.Node, Any] = dict(zip(inputs, operands, strict=True))
    with graph_module.graph.inserting_before(node):
        outputs = graph_module.graph.graph_copy(body.graph, copies)
    for inner, copied in copies.items():
        if inner.op == "get_attr":
            copied.target = f"{attribute.target}.{inner.target}"
    _replace_results(node, outputs)


def _replace_results(node: fx.Node, outputs: Any) -> None:
    if not isinstance(outputs, (tuple, list)):
        node.replace_all_uses_with(outputs)
    for reader in list(node.users):
        assert is_call(reader, operator.getitem), reader
        result = outputs[reader.args[1]]  # type: ignore[index]
        if isinstance(result, fx.Node):
            reader.replace_all_uses_with(result)
        reader.graph.erase_node(reader)
    node.graph.erase_node(node)
