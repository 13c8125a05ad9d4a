"""Inverses of views: from a view's new value to the new value of its source tensor."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from qpass.errors import TraceError
from qpass.graph.capture.functionalize.parts import Parts, slice_bounds
from qpass.graph.capture.functionalize.sizes import fixed_size, same_size, size_arguments
from qpass.graph.edit import add_constant, argument, aten, call_like, describe, is_call

#: Views that keep their source's values in the same order.
_RESHAPES = (
    *(aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int, aten._unsafe_view.default),
    *(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default, aten.view_as.default),
    *(aten.reshape_as.default, aten.ravel.default, aten.alias.default, aten.detach.default, aten.contiguous.default),
    *(aten.to.dtype, aten.to.dtype_layout, aten.to.device, aten.to.other, aten.dropout.default, aten.type_as.default),
    *(aten.atleast_1d.default, aten.atleast_2d.default, aten.atleast_3d.default, aten.expand.default, aten.expand_as.default),
)
#: Views that swap two dims; each is its own inverse.
_SWAPS = (
    *(aten.transpose.int, aten.swapaxes.default, aten.swapdims.default),
    *(aten.t.default, aten.mT.default, aten.numpy_T.default),
)
_SPLITS = (
    *(aten.split.Tensor, aten.split.sizes, aten.split_with_sizes.default, aten.chunk.default),
    *(aten.tensor_split.sections, aten.tensor_split.indices),
)
#: Arguments: the view, its new value, the current value of its source, and its traced source.
_Inverse = Callable[[fx.Node, fx.Node, fx.Node, fx.Node], fx.Node | None]


class PutBack:
    """Puts views back into their sources.

    Args:
        graph_module: The graph to add nodes to.
        parts: The tensors assembled so far.
        seen: Recorded output of each traced node.
    """

    def __init__(self, graph_module: fx.GraphModule, parts: Parts, seen: Mapping[fx.Node, Any]) -> None:
        self._graph_module, self._parts, self._seen = graph_module, parts, seen
        self._before: fx.Node | None = None
        self._inverses: dict[Any, _Inverse] = {
            aten.slice.Tensor: self._slice,
            aten.narrow.default: self._narrow,
            aten.select.int: self._select,
            operator.getitem: self._item,
            aten.permute.default: self._permute,
            aten.movedim.int: self._moved,
            aten.movedim.intlist: self._moved,
            aten.diagonal.default: self._diagonal,
            **dict.fromkeys(_SWAPS, lambda view, value, source, of: self._call(view.target, value, *view.args[1:])),
            **dict.fromkeys(_RESHAPES, self._reshape),
        }

    def __call__(self, view: fx.Node, value: fx.Node, source: fx.Node, of: fx.Node, *, before: fx.Node) -> fx.Node:
        """Returns the new value of a tensor after one of its views was written to.

        Args:
            view: The traced view.
            value: Its new value.
            source: The current value of the tensor.
            of: The traced tensor.
            before: The node to insert before.

        Raises:
            TraceError: If the view has no inverse.
        """
        self._before = before
        inverse = self._inverses.get(view.target)
        result = None if inverse is None else inverse(view, value, source, of)
        if result is None:
            raise TraceError(
                f"writes into {view.target} of a tensor",
                where=describe(before),
                expected="a write into a slice, a row, or another arrangement of the same values",
                hint="write into a tensor of its own, and put the two together by torch.cat or torch.where",
            )
        return result

    def _call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        assert self._before is not None
        return call_like(self._graph_module, self._before, target, *args, **kwargs)

    def _ndim(self, node: fx.Node) -> int:
        return len(self._seen[node].shape)

    def _replace(self, source: fx.Node, value: fx.Node, dim: int, bounds: tuple[int, int, int]) -> fx.Node:
        assert self._before is not None
        return self._parts.replace(source, value, dim, bounds, self._before)

    def _slice(self, view: fx.Node, value: fx.Node, source: fx.Node, of: fx.Node) -> fx.Node:
        dim = argument(view, 1, "dim", 0) % self._ndim(of)
        size = fixed_size(of, dim)
        bounds = None if size is None else slice_bounds(view, size)
        if size is not None and bounds is not None:
            return self._replace(source, value, dim, (*bounds, size))
        if same_size(view, of, dim):
            return value
        ends = [argument(view, index, name) for index, name in ((2, "start"), (3, "end"))]
        return self._call(aten.slice_scatter.default, source, value, dim, *ends, argument(view, 4, "step", 1))

    def _narrow(self, view: fx.Node, value: fx.Node, source: fx.Node, of: fx.Node) -> fx.Node | None:
        dim, start, length = view.args[1:]
        size = fixed_size(of, dim)  # type: ignore[arg-type]
        if size is None or not isinstance(start, int) or not isinstance(length, int):
            return None
        start %= size
        return self._replace(source, value, dim % self._ndim(of), (start, start + length, size))  # type: ignore[operator,arg-type]

    def _select(self, view: fx.Node, value: fx.Node, source: fx.Node, of: fx.Node) -> fx.Node:
        return self._row(value, source, of, argument(view, 1, "dim"), argument(view, 2, "index"))

    def _row(self, value: fx.Node, source: fx.Node, of: fx.Node, dim: int, index: Any) -> fx.Node:
        assert self._before is not None
        dim %= self._ndim(of)
        size = fixed_size(of, dim)
        if size is None or not isinstance(index, int):
            return self._call(aten.select_scatter.default, source, value, dim, index)
        row = self._parts.row(value, dim, self._before)
        return self._replace(source, row, dim, (index % size, index % size + 1, size))

    def _item(self, view: fx.Node, value: fx.Node, source: fx.Node, of: fx.Node) -> fx.Node | None:
        views, index = view.args
        assert isinstance(views, fx.Node)
        assert isinstance(index, int)
        if is_call(views, aten.unbind.int):
            return self._row(value, source, of, argument(views, 1, "dim", 0), index)
        dim = argument(views, 2, "dim", 0) % self._ndim(of)
        size = fixed_size(of, dim)
        if not is_call(views, *_SPLITS) or size is None:
            return None
        sizes = [seen.shape[dim] for seen in self._seen[views]]
        index %= len(sizes)
        return self._replace(source, value, dim, (sum(sizes[:index]), sum(sizes[: index + 1]), size))

    def _diagonal(self, view: fx.Node, value: fx.Node, source: fx.Node, of: fx.Node) -> fx.Node:
        """Writes with ``where``: torch's ONNX exporter rejects ``diagonal_scatter``."""
        assert self._before is not None
        offset, *dims = (argument(view, *which) for which in ((1, "offset", 0), (2, "dim1", 0), (3, "dim2", 1)))
        rows, columns = (fixed_size(of, dim) for dim in dims)
        if rows is None or columns is None:
            return self._call(aten.diagonal_scatter.default, source, value, offset, *dims)
        places = torch.zeros(rows, columns, dtype=torch.bool)
        places.diagonal(offset).fill_(True)
        if not places.any():
            return source
        order = (torch.arange(rows) + min(offset, 0)).clamp(0, int(places.sum()) - 1)  # each row's index into the diagonal
        of_rows = add_constant(self._graph_module, f"{view.name}_order", order, self._before)
        where = add_constant(self._graph_module, f"{view.name}_places", places, self._before)
        spread = self._call(aten.unsqueeze.default, self._call(aten.index_select.default, value, -1, of_rows), -1)
        moved = self._call(aten.movedim.intlist, source, dims, [-2, -1])
        return self._call(aten.movedim.intlist, self._call(aten.where.self, where, spread, moved), [-2, -1], dims)

    def _permute(self, view: fx.Node, value: fx.Node, source: fx.Node, of: fx.Node) -> fx.Node:
        order = [dim % self._ndim(of) for dim in argument(view, 1, "dims")]
        return self._call(aten.permute.default, value, [order.index(dim) for dim in range(len(order))])

    def _moved(self, view: fx.Node, value: fx.Node, source: fx.Node, of: fx.Node) -> fx.Node:
        return self._call(view.target, value, argument(view, 2, "destination"), argument(view, 1, "source"))

    def _reshape(self, view: fx.Node, value: fx.Node, source: fx.Node, of: fx.Node) -> fx.Node | None:
        assert self._before is not None
        if self._seen[view].elements != self._seen[of].elements or self._seen[view].dtype != self._seen[of].dtype:
            return None
        sizes = size_arguments(self._graph_module, of, source, self._before)
        if sizes is None:
            return self._call(aten.reshape_as.default, value, source)
        return self._call(aten.reshape.default, value, sizes)
