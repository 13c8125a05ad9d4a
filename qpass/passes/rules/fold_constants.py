"""f(constants) -> constant, if that takes no more space: joined biases, computed weights, numbers.

A result larger than its parts, such as a per-window mask or a per-head bias, stays as operators.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from qpass.graph.edit import add_constant, fetch, replace
from qpass.passes.constants import evaluate, is_function
from qpass.passes.rules.constant_forms import kept_operators

#: Larger results are not stored, since they would grow the file.
MAX_ELEMENTS = 2**24


def fold_constants(graph_module: fx.GraphModule) -> int:
    """Evaluates calls that depend on constants alone, except those that are smaller than their output."""
    values = _constant_values(graph_module)
    folded = 0
    for operator in kept_operators(values):
        del values[operator]
    for node, value in list(values.items()):
        if node.op != "call_function" or all(user in values for user in node.users):
            continue  # only where a non-constant node reads it
        if isinstance(value, Tensor) and value.numel() <= MAX_ELEMENTS:
            replace(node, add_constant(graph_module, f"{node.name}_folded", value, node))
            del values[node]
            folded += 1
        elif isinstance(value, (bool, int, float)):
            _write_out(node, value)
            folded += 1
    return folded


def _constant_values(graph_module: fx.GraphModule) -> dict[fx.Node, Any]:
    """Evaluates all nodes that depend on constants alone and returns their values."""
    values: dict[fx.Node, Any] = {}
    for node in graph_module.graph.nodes:
        if node.op == "get_attr":
            values[node] = fetch(graph_module, str(node.target))
        elif is_function(node) and all(source in values for source in node.all_input_nodes):
            values[node] = evaluate(node, values)
    return values


def _write_out(node: fx.Node, value: bool | int | float) -> None:
    """Replaces a node by a number in the arguments of its readers."""
    for user in list(node.users):
        args, kwargs = fx.node.map_arg((user.args, dict(user.kwargs)), lambda source: value if source is node else source)
        user.args, user.kwargs = args, kwargs
