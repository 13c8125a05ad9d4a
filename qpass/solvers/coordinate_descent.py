"""Improves the codes of a weight one column at a time, given its levels.

Prior work: QuantEase (https://arxiv.org/abs/2309.01885) does it for uniform levels.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Columns between two updates of the gradient of all columns.
_BLOCK = 64


def descend(codes: Tensor, levels: Tensor, gram: Tensor, wanted: Tensor) -> Tensor:
    """Returns a weight whose nearest levels are better codes, after one pass over the columns.

    Each value is the best one given the levels of all others, just before it is rounded to its own.
    The error ½ tr(W' H W'ᵀ) - tr(W' Cᵀ) of the rounded weight W' never grows. Columns come in
    descending order of H's diagonal.

    Args:
        codes: Index of the level of each weight: (out, in).
        levels: Levels of each output channel, ascending: (out, levels).
        gram: H, with a positive diagonal: (in, in), float64.
        wanted: C: (out, in), float64.

    Returns:
        The weight before rounding, in float64: (out, in).
    """
    levels = levels.double()
    boundaries = ((levels[:, 1:] + levels[:, :-1]) / 2).contiguous()
    weight = levels.gather(1, codes.long())
    exact = torch.empty_like(weight)
    gradient = weight @ gram - wanted
    for columns in gram.diagonal().argsort(descending=True, stable=True).split(_BLOCK):
        inner, steps = gradient[:, columns], torch.empty_like(weight[:, columns])
        among = gram[columns][:, columns]
        for i, column in enumerate(columns.tolist()):
            exact[:, column] = weight[:, column] - inner[:, i] / among[i, i]
            found = torch.searchsorted(boundaries, exact[:, column, None].contiguous())
            steps[:, i] = levels.gather(1, found)[:, 0] - weight[:, column]
            inner += steps[:, i, None] * among[i]
        weight[:, columns] += steps
        gradient += steps @ gram[columns]
    return exact
