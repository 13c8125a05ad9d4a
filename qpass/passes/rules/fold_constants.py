"""f(constants) -> constant: relative position tables, concatenated biases, masks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from qpass.graph import add_constant, fetch, replace

#: Larger results are left to be computed: the file would grow by them.
MAX_ELEMENTS = 2**24
_RANDOM = ("rand", "normal", "bernoulli", "dropout", "multinomial", "empty")


def fold_constants(graph_module: fx.GraphModule) -> int:
    """Evaluates every call that depends on constants alone."""
    values: dict[fx.Node, Any] = {}
    folded = 0
    for node in list(graph_module.graph.nodes):
        if node.op == "get_attr":
            values[node] = fetch(graph_module, str(node.target))
        elif node.op == "call_function" and _foldable(node, values):
            values[node] = _evaluate(node, values)
    for node, value in values.items():
        if node.op != "call_function" or not isinstance(value, Tensor) or value.numel() > MAX_ELEMENTS:
            continue
        if any(user not in values for user in node.users):  # only where a constant leaves the constant part
            replace(node, add_constant(graph_module, f"{node.name}_folded", value, node))
            folded += 1
    return folded


def _foldable(node: fx.Node, values: dict[fx.Node, Any]) -> bool:
    if any(word in str(node.target) for word in _RANDOM) or getattr(node.target, "_schema", None) is None:
        return str(node.target) == "<built-in function getitem>" and node.args[0] in values
    return not node.target._schema.is_mutable and all(source in values for source in node.all_input_nodes)  # type: ignore[union-attr]


def _evaluate(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), lambda source: values[source])
    with torch.no_grad():
        return node.target(*args, **kwargs)  # type: ignore[operator]
