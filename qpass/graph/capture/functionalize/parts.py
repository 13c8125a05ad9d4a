"""Tensors assembled from parts along one dim, so that reading a slice finds the value written to it.

``t = zeros(B, 17, C); t[:, 0] = cls; t[:, 1:] = patches`` becomes ``cat([cls, patches], 1)``: the
zeros are never read.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import fx

from qpass.graph.edit import END_OF_DIM, argument, aten, call_like, is_call


class Part(NamedTuple):
    """A node, and its size along the concatenated dim."""

    size: int
    node: fx.Node


class Parts:
    """Assembles tensors and remembers their parts.

    Args:
        graph_module: The graph to add nodes to.
    """

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self._graph_module = graph_module
        self._known: dict[fx.Node, tuple[int, list[Part]]] = {}
        self._rows: dict[fx.Node, tuple[int, fx.Node]] = {}

    def row(self, value: fx.Node, dim: int, before: fx.Node) -> fx.Node:
        """Returns ``value`` with a new dim of size 1."""
        node = call_like(self._graph_module, before, aten.unsqueeze.default, value, dim)
        self._rows[node] = dim, value
        return node

    def replace(self, source: fx.Node, value: fx.Node, dim: int, bounds: tuple[int, int, int], before: fx.Node) -> fx.Node:
        """Returns ``source`` with one slice replaced.

        Args:
            source: The tensor.
            value: The new value of the slice.
            dim: The slice's dim, not negative.
            bounds: Start and end of the slice, and the size of the dim.
            before: The node to insert before.
        """
        start, stop, size = bounds
        written = [Part(stop - start, value)] if stop > start else []
        stop = max(start, stop)
        return self._join(
            [*self._cut(source, dim, 0, start, before), *written, *self._cut(source, dim, stop, size, before)], dim, before
        )

    def find(self, view: fx.Node, source: fx.Node, ndim: int, before: fx.Node) -> fx.Node | None:
        """Returns the parts of ``source`` that a slice or select reads, or None if they are unknown.

        Args:
            view: The slice or select.
            source: The tensor that it should read.
            ndim: Number of dims of ``source``.
            before: The node to insert before.
        """
        if source not in self._known or not is_call(view, aten.slice.Tensor, aten.select.int):
            return None
        dim, parts = self._known[source]
        if int(argument(view, 1, "dim", 0)) % ndim != dim:
            return None
        if is_call(view, aten.select.int):
            index = argument(view, 2, "index")
            return self._select(dim, parts, index, before) if isinstance(index, int) else None
        bounds = slice_bounds(view, sum(part.size for part in parts))
        if bounds is None or bounds[0] >= bounds[1]:
            return None
        return self._join(self._cut(source, dim, *bounds, before), dim, before)

    def _select(self, dim: int, parts: list[Part], index: int, before: fx.Node) -> fx.Node:
        index %= sum(part.size for part in parts)
        position = 0
        while index >= parts[position].size:
            index -= parts[position].size
            position += 1
        node = parts[position].node
        if node in self._rows and self._rows[node][0] == dim:
            return self._rows[node][1]
        return call_like(self._graph_module, before, aten.select.int, node, dim, index)

    def _cut(self, source: fx.Node, dim: int, start: int, stop: int, before: fx.Node) -> list[Part]:
        if start >= stop:
            return []
        if source not in self._known or self._known[source][0] != dim:
            return [Part(stop - start, call_like(self._graph_module, before, aten.slice.Tensor, source, dim, start, stop))]
        found, offset = [], 0
        for part in self._known[source][1]:
            low, high = max(start - offset, 0), min(stop - offset, part.size)
            offset += part.size
            if (low, high) == (0, part.size):
                found.append(part)
            elif low < high:
                found += self._cut(part.node, dim, low, high, before)
        return found

    def _join(self, parts: list[Part], dim: int, before: fx.Node) -> fx.Node:
        if len(parts) == 1:
            return parts[0].node
        node = call_like(self._graph_module, before, aten.cat.default, [part.node for part in parts], dim)
        self._known[node] = dim, parts
        return node


def slice_bounds(view: fx.Node, size: int) -> tuple[int, int] | None:
    """Returns start and end of a slice of a dim of ``size``.

    Returns None if they depend on the inputs, or if the step is not 1.
    """
    start, stop, step = (argument(view, index, name) for index, name in ((2, "start"), (3, "end"), (4, "step")))
    bounds = (0 if start is None else start, END_OF_DIM if stop is None else stop)
    if step not in (None, 1) or not all(isinstance(bound, int) for bound in bounds):
        return None
    low, high, _ = slice(*bounds).indices(size)
    return low, high
