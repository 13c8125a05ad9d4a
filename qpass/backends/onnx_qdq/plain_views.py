"""Views that torch decomposes, written as ``reshape``, ``split``, ``expand`` and ``clone``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import SymInt, Tensor, fx

from qpass.graph.edit import aten, input_node


def replace_views(graph_module: fx.GraphModule) -> None:
    """Replaces views that are shorthand for others, in place.

    Args:
        graph_module: A graph of ``torch.export``, whose nodes hold their values in ``meta["val"]``.
    """
    for node in list(graph_module.graph.nodes):
        rule = _RULES.get(node.target) if node.op == "call_function" else None
        if rule is not None and isinstance(input_node(node, 0).meta.get("val"), Tensor):
            with graph_module.graph.inserting_before(node):
                found = rule(node, *node.args, **node.kwargs)
            if found is not None:
                node.target, node.args, node.kwargs = *found, {}
    graph_module.recompile()


_Replacement = tuple[Callable[..., Any], tuple[Any, ...]]


def _flatten(node: fx.Node, x: fx.Node, start_dim: int = 0, end_dim: int = -1) -> _Replacement | None:
    sizes = _sizes(x)
    if not sizes:
        return None
    start, end = start_dim % len(sizes), end_dim % len(sizes)
    merged = sizes[start] if start == end else _whole(node, start)
    return aten.reshape.default, (x, [*sizes[:start], merged, *sizes[end + 1 :]])


def _unflatten(node: fx.Node, x: fx.Node, dim: int, sizes: Any) -> _Replacement:
    own = _sizes(x)
    place = dim % len(own)
    return aten.reshape.default, (x, [*own[:place], *sizes, *own[place + 1 :]])


def _chunk(node: fx.Node, x: fx.Node, chunks: int, dim: int = 0) -> _Replacement | None:
    size = x.meta["val"].shape[dim]
    return None if isinstance(size, SymInt) or size == 0 else (aten.split.Tensor, (x, -(-size // chunks), dim))


def _contiguous(node: fx.Node, x: fx.Node, **_: Any) -> _Replacement:
    return aten.clone.default, (x,)


def _reshape_as(node: fx.Node, x: fx.Node, other: fx.Node) -> _Replacement:
    return aten.reshape.default, (x, _sizes(other))


def _expand_as(node: fx.Node, x: fx.Node, other: fx.Node) -> _Replacement:
    return aten.expand.default, (x, _sizes(other))


def _whole(node: fx.Node, dim: int) -> int:
    """Returns the size of a dim of the output, or -1 if it is open."""
    size = node.meta["val"].shape[dim]
    return -1 if isinstance(size, SymInt) else int(size)


def _sizes(x: fx.Node) -> list[int | fx.Node]:
    return [_size(x, dim) for dim in range(x.meta["val"].dim())]


def _size(x: fx.Node, dim: int) -> int | fx.Node:
    """Returns the size of a dim of the input, or a node that computes it if it is open."""
    size = x.meta["val"].shape[dim]
    if not isinstance(size, SymInt):
        return int(size)
    node = x.graph.call_function(aten.sym_size.int, (x, dim))
    node.meta["val"] = size
    return node


_RULES: dict[Any, Callable[..., _Replacement | None]] = {
    aten.flatten.using_ints: _flatten,
    aten.unflatten.int: _unflatten,
    aten.chunk.default: _chunk,
    aten.contiguous.default: _contiguous,
    aten.reshape_as.default: _reshape_as,
    aten.expand_as.default: _expand_as,
}
