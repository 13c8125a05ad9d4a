"""Quantizes to levels of an 8-bit grid by one look-up per value, with straight-through gradients.

Learning spends much of its time here. Searching the nearest level of each value, with autograd
through the search, takes several times as long as uniform rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qpass.quantizers.base import GREATEST_BYTE, ste_mask


def quantize_by_cells(x: Tensor, levels: Tensor, index: Tensor, *, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Returns s ([l_i] - z), where i = index[g] for the cell g = clamp([x / s] + z, 0, 255) of x.

    Args:
        x: Any shape.
        levels: l, on the grid: (levels,).
        index: Index of the level of each cell: (256,).
        scale: s: one element, or a shape that broadcasts to ``x``.
        zero_point: z, likewise.

    Returns:
        The values, in the shape and dtype of ``x``. Roundings have a gradient of 1: that of x is 1
        where it is not clamped, else 0; a level has those of its values, times s.
    """
    result: Tensor = _QuantizeByCells.apply(x, levels, scale, zero_point, index)  # type: ignore[no-untyped-call]
    return result


class _QuantizeByCells(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, levels: Tensor, scale: Tensor, zero_point: Tensor, index: Tensor) -> Tensor:  # type: ignore[override]
        rounded = (x / scale).round_()
        least, greatest = -zero_point, GREATEST_BYTE - zero_point
        # Scalar bounds are several times faster than tensor bounds.
        single = zero_point.numel() == 1
        ctx.bounds = (least.item(), greatest.item()) if single else (least, greatest)
        # Via int32, whose conversion is fast. NaN, which has no cell, takes the first.
        cells = rounded.clamp(*ctx.bounds).add_(zero_point).int().byte()
        table = levels.round()[index]
        if single:
            found = _of_cells(((table - zero_point) * scale).to(x.dtype), cells)
        else:
            found = ((_of_cells(table, cells) - zero_point) * scale).to(x.dtype)
        ctx.save_for_backward(*(x, found) if ctx.needs_input_grad[2] else (None, None), rounded, cells, levels, scale, index)
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:  # type: ignore[override]
        x, found, rounded, cells, levels, scale, index = ctx.saved_tensors
        to_x = ste_mask(grad, rounded, *ctx.bounds)
        to_levels = to_scale = None
        if ctx.needs_input_grad[1]:
            sums = _sums_of_cells(cells, grad) * scale if scale.numel() == 1 else _sums_of_cells(cells, grad * scale)
            to_levels = torch.zeros_like(levels).index_add_(0, index, sums.to(levels.dtype))
        if ctx.needs_input_grad[2]:
            to_scale = ((grad * found).sum_to_size(scale.shape) - (to_x * x).sum_to_size(scale.shape)) / scale
        return to_x, to_levels, to_scale, None, None


def _of_cells(table: Tensor, cells: Tensor) -> Tensor:
    """Returns the entry of each cell; ``index_select`` is several times faster than indexing."""
    return table.index_select(0, cells.flatten().int()).view(cells.shape)


def _sums_of_cells(cells: Tensor, values: Tensor) -> Tensor:
    """Returns the sum of the values of each cell: (256,)."""
    cells, values, count = cells.flatten(), values.flatten(), GREATEST_BYTE + 1
    if cells.device.type == "cpu":
        return torch.bincount(cells, values, count)
    # Others add in any order, and a resumed run must have the same bits.
    return values.new_zeros(count).index_put_((cells.long(),), values, accumulate=True)
