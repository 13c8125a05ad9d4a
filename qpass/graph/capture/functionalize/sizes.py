"""Sizes of traced tensors: numbers if they are fixed, nodes if not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from qpass.graph.edit import aten, call_like


def fixed_size(node: fx.Node, dim: int) -> int | None:
    """Returns the size of a dim of a traced node, or None if it depends on the inputs."""
    sizes = _traced_sizes(node)
    return sizes[dim] if sizes is not None and isinstance(sizes[dim], int) else None


def same_size(a: fx.Node, b: fx.Node, dim: int) -> bool:
    """Returns whether two traced nodes have the same size in a dim for all inputs."""
    sizes = _traced_sizes(a), _traced_sizes(b)
    return None not in sizes and str(sizes[0][dim]) == str(sizes[1][dim])  # type: ignore[index]


def same_sizes(a: fx.Node, b: fx.Node) -> bool:
    """Returns whether two traced nodes have the same shape for all inputs."""
    sizes = _traced_sizes(a), _traced_sizes(b)
    return None not in sizes and str(sizes[0]) == str(sizes[1])


def size_arguments(graph_module: fx.GraphModule, node: fx.Node, value: fx.Node, before: fx.Node) -> list[Any] | None:
    """Returns the shape of a traced node as call arguments.

    Args:
        graph_module: The graph.
        node: The traced node.
        value: A node that has its shape at ``before``.
        before: The node to insert before.

    Returns:
        Numbers, and nodes for sizes that depend on the inputs; None if the trace recorded no shape.
    """
    sizes = _traced_sizes(node)
    if sizes is None:
        return None
    inputs = [n for n in graph_module.graph.nodes if n.op == "placeholder"]
    places = {str(size): (n, dim) for n in inputs for dim, size in enumerate(_traced_sizes(n) or ())}

    def argument(dim: int, size: Any) -> Any:
        if isinstance(size, int):
            return size
        return call_like(graph_module, before, aten.sym_size.int, *places.get(str(size), (value, dim)))

    return [argument(dim, size) for dim, size in enumerate(sizes)]


def _traced_sizes(node: fx.Node) -> list[Any] | None:
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return None
    return [size if isinstance(size, torch.SymInt) and size.node.is_symbolic() else int(size) for size in value.shape]
