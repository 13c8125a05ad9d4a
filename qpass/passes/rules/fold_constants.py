"""f(constants) -> constant, where that takes no more room: concatenated biases, computed weights, numbers read from them.

What is larger than its parts, such as a mask for each window or a bias for each head, stays the operators that make it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from qpass.graph.edit import add_constant, fetch, replace
from qpass.passes.constants import evaluate, is_function
from qpass.passes.rules.constant_forms import kept_operators

#: Larger results are left to be computed: the file would grow by them.
MAX_ELEMENTS = 2**24


def fold_constants(graph_module: fx.GraphModule) -> int:
    """Evaluates the calls that depend on constants alone, save for those that are smaller than what they give."""
    values = _constant_values(graph_module)
    folded = 0
    for operator in kept_operators(values):
        del values[operator]
    for node, value in list(values.items()):
        if node.op != "call_function" or all(user in values for user in node.users):
            continue  # only where a constant leaves the constant part
        if isinstance(value, Tensor) and value.numel() <= MAX_ELEMENTS:
            replace(node, add_constant(graph_module, f"{node.name}_folded", value, node))
            del values[node]
            folded += 1
        elif isinstance(value, (bool, int, float)):
            _write_out(node, value)
            folded += 1
    return folded


def _constant_values(graph_module: fx.GraphModule) -> dict[fx.Node, Any]:
    """Runs what depends on constants alone and returns what each of its nodes gives."""
    values: dict[fx.Node, Any] = {}
    for node in graph_module.graph.nodes:
        if node.op == "get_attr":
            values[node] = fetch(graph_module, str(node.target))
        elif is_function(node) and all(source in values for source in node.all_input_nodes):
            values[node] = evaluate(node, values)
    return values


def _write_out(node: fx.Node, value: bool | int | float) -> None:
    """Lets the readers of a node have a number in its place."""
    for user in list(node.users):
        args, kwargs = fx.node.map_arg((user.args, dict(user.kwargs)), lambda source: value if source is node else source)
        user.args, user.kwargs = args, kwargs
