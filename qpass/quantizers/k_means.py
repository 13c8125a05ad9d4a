"""Exact one-dimensional k-means: the levels with the least squared error, by dynamic programming.

Sorted values fall into k consecutive intervals, and the best ends of these follow one another (Wang
and Song, "Ckmeans.1d.dp", R Journal 3, 2011): O(k n²) for n values.
"""

from __future__ import annotations

import torch
from torch import Tensor


def k_means(values: Tensor, weight: Tensor, count: int, *, bounds: tuple[int, int] | None = None) -> Tensor:
    """Returns the ``count`` levels with the least Σ weight (value - nearest level)².

    Args:
        values: Ascending along the last dim: (rows, n).
        weight: Non-negative: (rows, n).
        count: Number of levels of each row.
        bounds: Restrict levels to whole numbers from the first to the second; None allows any number.

    Returns:
        Levels in float64, ascending: (rows, count). With fewer distinct values than levels, some
        repeat.
    """
    values, weight = values.double(), weight.double()
    total, first, second = (_sums(weight * values**power) for power in (0, 1, 2))
    level = _between(first) / _between(total).clamp(min=torch.finfo(torch.float64).tiny)
    if bounds is not None:
        level = level.round().clamp(*bounds)
    error = _between(second) - 2 * level * _between(first) + level.square() * _between(total)
    # error[r, i, j] is that of values i to j - 1 as one interval, which may be empty.
    ends = torch.arange(values.shape[-1] + 1, device=values.device)
    error = error.clamp(min=0).masked_fill(ends[:, None] > ends, torch.inf)
    least, starts = error[:, 0], list[Tensor]()
    for _ in range(count - 1):
        least, start = (least[:, :, None] + error).min(1)
        starts.append(start)
    return _levels(level, starts)


def _sums(x: Tensor) -> Tensor:
    """Returns the sums of the first 0, 1, ..., n values: (rows, n + 1)."""
    return torch.nn.functional.pad(x.cumsum(-1), (1, 0))


def _between(sums: Tensor) -> Tensor:
    """Returns the sums of values i to j - 1: (rows, n + 1, n + 1)."""
    return sums[:, None, :] - sums[:, :, None]


def _levels(level: Tensor, starts: list[Tensor]) -> Tensor:
    """Follows the best interval starts back from the last value; an empty interval repeats a level."""
    rows = torch.arange(len(level), device=level.device)
    end = torch.full_like(rows, level.shape[-1] - 1)
    found = []
    for start in [*reversed(starts), None]:
        begin = torch.zeros_like(end) if start is None else start[rows, end]
        found.append(torch.where(begin < end, level[rows, begin, end], torch.nan))
        end = begin
    levels = torch.stack(found[::-1], 1)
    return levels.where(~levels.isnan(), levels.nan_to_num(nan=-torch.inf).amax(1, keepdim=True)).sort(1).values
