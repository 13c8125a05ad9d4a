"""Nodes whose values do not depend on the network's inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from qpass.graph.edit import ancestors, fetch


def constant_nodes(graph_module: fx.GraphModule) -> set[fx.Node]:
    """Returns the stored tensors of a graph and the operators that depend only on them."""
    constants: set[fx.Node] = set()
    for node in graph_module.graph.nodes:
        if node.op == "get_attr" or (is_function(node) and constants.issuperset(node.all_input_nodes)):
            constants.add(node)
    return constants


def constant_values(graph_module: fx.GraphModule) -> dict[fx.Node, Any]:
    """Returns the values of all nodes that depend on constants alone, in order of execution."""
    values: dict[fx.Node, Any] = {}
    for node in graph_module.graph.nodes:
        if node.op == "get_attr":
            values[node] = fetch(graph_module, str(node.target))
        elif is_function(node) and all(source in values for source in node.all_input_nodes):
            values[node] = evaluate(node, values)
    return values


def constant_value(graph_module: fx.GraphModule, node: fx.Node) -> Tensor | None:
    """Returns the value of a constant node, or None for any other node."""
    if node not in constant_nodes(graph_module):
        return None
    values: dict[fx.Node, Any] = {}
    needed = ancestors(node) | {node}
    for each in (each for each in node.graph.nodes if each in needed):
        values[each] = fetch(graph_module, str(each.target)) if each.op == "get_attr" else evaluate(each, values)
    return values[node].detach() if isinstance(values[node], Tensor) else None


def evaluate(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """Evaluates a function call, given the values of its input nodes."""
    args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), lambda read: values[read])
    with torch.no_grad():
        return node.target(*args, **kwargs)  # type: ignore[operator]


def is_function(node: fx.Node) -> bool:
    """Returns whether a node's output depends on its inputs alone."""
    if node.op != "call_function" or isinstance(node.target, torch._ops.HigherOrderOperator):
        return False
    return torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ())
