"""Which rows of its operands a call needs to compute some rows of its output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from qpass.graph.edit import COPIES, RESHAPES, argument, aten, called_module, input_list, is_call, shape_of
from qpass.nn import QuantizedLinear
from qpass.passes.annotate import MATMULS
from qpass.quantizers import Quantizer

#: Reshapes that name the sizes of their output.
SIZED = (aten.reshape.default, aten.view.default)
_ELEMENTWISE = (
    *(aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor),
    *(aten.gelu.default, aten.relu.default, aten.silu.default, aten.hardswish.default, aten.elu.default),
    *(aten.tanh.default, aten.sigmoid.default, aten.erf.default, aten.neg.default),
    *COPIES,
)


@dataclass(frozen=True)
class Rows:
    """Consecutive indices of one dim of a tensor.

    Attributes:
        dim: The dim, from 0.
        start: The first index.
        stop: Behind the last index.
    """

    dim: int
    start: int
    stop: int

    @property
    def count(self) -> int:
        """Number of rows."""
        return self.stop - self.start

    @staticmethod
    def union(parts: Sequence[Rows | None]) -> Rows | None:
        """Returns the least range that holds all parts; None if one is None, or if dims differ."""
        found = [part for part in parts if part is not None]
        if not found or len(found) < len(parts) or len({part.dim for part in found}) > 1:
            return None
        return Rows(found[0].dim, min(part.start for part in found), max(part.stop for part in found))


def selected_rows(node: fx.Node) -> Rows | None:
    """Returns the rows that a call selects from its operand, or None for any other call."""
    if not is_call(node, aten.select.int, aten.slice.Tensor):
        return None
    shape = shape_of(node.args[0])
    if shape is None:
        return None
    dim = argument(node, 1, "dim", 0) % len(shape)
    if is_call(node, aten.select.int):
        index = argument(node, 2, "index")
        return Rows(dim, index % shape[dim], index % shape[dim] + 1) if isinstance(index, int) else None
    start, stop, step = (argument(node, *at) for at in ((2, "start"), (3, "end"), (4, "step", 1)))
    start, stop = 0 if start is None else start, shape[dim] if stop is None else stop
    if not isinstance(start, int) or not isinstance(stop, int) or step != 1:
        return None
    start, stop, _ = slice(start, stop).indices(shape[dim])
    return Rows(dim, start, stop) if start < stop else None


def is_product(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Returns whether a call multiplies matrices: its time grows with its rows."""
    return is_call(node, aten.linear.default, *MATMULS) or isinstance(called_module(graph_module, node), QuantizedLinear)


def rows_of_operands(graph_module: fx.GraphModule, node: fx.Node, rows: Rows) -> dict[int, Rows] | None:
    """Returns, by index of an argument, the rows of operands that some rows of a call's output need.

    Operands that are not listed are needed whole. None if the call cannot compute these rows alone.
    """
    shape = shape_of(node)
    if shape is None or node.kwargs.keys() & {"input", "self", "other"}:
        return None
    if is_call(node, *_ELEMENTWISE):
        return _broadcast(node, rows, len(shape))
    first = shape_of(node.args[0]) if node.args else None
    if first is None:
        return None
    alone, module = {0: rows}, called_module(graph_module, node)
    if isinstance(module, Quantizer):
        return alone if getattr(module, "axis", None) is None else None
    if is_call(node, aten.linear.default) or isinstance(module, QuantizedLinear):
        return alone if rows.dim < len(shape) - 1 else None
    if is_call(node, aten.layer_norm.default):
        return alone if rows.dim < len(shape) - len(input_list(node, 1)) else None
    if is_call(node, aten.softmax.int):
        return alone if rows.dim != argument(node, 1, "dim") % len(shape) else None
    if is_call(node, *MATMULS):
        return alone if rows.dim == len(shape) - 2 and len(first) == len(shape) else None
    if is_call(node, aten.permute.default):
        return {0: Rows(input_list(node, 1)[rows.dim] % len(shape), rows.start, rows.stop)}
    if is_call(node, aten.transpose.int, aten.mT.default):
        swapped = (-2, -1) if is_call(node, aten.mT.default) else (argument(node, 1, "dim0"), argument(node, 2, "dim1"))
        a, b = (dim % len(shape) for dim in swapped)
        return {0: Rows({a: b, b: a}.get(rows.dim, rows.dim), rows.start, rows.stop)}
    if is_call(node, *RESHAPES):
        dim = _dim_before(first, shape, rows.dim)
        open_size = is_call(node, *SIZED) and input_list(node, 1)[rows.dim] != shape[rows.dim]
        return None if dim is None or open_size else {0: Rows(dim, rows.start, rows.stop)}
    return None


def _broadcast(node: fx.Node, rows: Rows, rank: int) -> dict[int, Rows] | None:
    """Returns the rows of an elementwise call's operands, but for those that repeat along the dim."""
    found: dict[int, Rows] = {}
    for index, operand in enumerate(node.args):
        if not isinstance(operand, fx.Node):
            continue
        shape = shape_of(operand)
        if shape is None:
            return None
        dim = rows.dim - (rank - len(shape))
        if dim >= 0 and shape[dim] != 1:
            found[index] = Rows(dim, rows.start, rows.stop)
    return found


def _dim_before(before: Sequence[int], after: Sequence[int], dim: int) -> int | None:
    """Returns the dim that a reshape keeps as ``dim``, or None if it merges or splits it."""
    size, leading = after[dim], math.prod(after[:dim])
    return next((i for i, other in enumerate(before) if other == size and math.prod(before[:i]) == leading and size > 1), None)
