"""Improves the codes of a weight one column at a time, given its levels.

Prior work: QuantEase (https://arxiv.org/abs/2309.01885) does it for uniform levels.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Columns between two updates of the gradient of all columns.
_BLOCK = 64


def descend(codes: Tensor, levels: Tensor, gram: Tensor, wanted: Tensor) -> Tensor:
    """Returns codes after one pass over the columns, each set to its best level given all others.

    The error ½ tr(W' H W'ᵀ) - tr(W' Cᵀ) of the weight W' never grows. Columns come in descending order
    of H's diagonal.

    Args:
        codes: Index of the level of each weight: (out, in).
        levels: Levels of each output channel, ascending: (out, levels).
        gram: H, with a positive diagonal: (in, in), float64.
        wanted: C: (out, in), float64.

    Returns:
        The codes: (out, in).
    """
    levels = levels.double()
    boundaries = ((levels[:, 1:] + levels[:, :-1]) / 2).contiguous()
    codes = codes.long().clone()
    weight = levels.gather(1, codes)
    gradient = weight @ gram - wanted
    for columns in gram.diagonal().argsort(descending=True, stable=True).split(_BLOCK):
        inner, steps = gradient[:, columns], torch.empty_like(weight[:, columns])
        among = gram[columns][:, columns]
        for i, column in enumerate(columns.tolist()):
            best = weight[:, column] - inner[:, i] / among[i, i]
            found = torch.searchsorted(boundaries, best[:, None].contiguous())
            steps[:, i] = levels.gather(1, found)[:, 0] - weight[:, column]
            codes[:, column] = found[:, 0]
            inner += steps[:, i, None] * among[i]
        weight[:, columns] += steps
        gradient += steps @ gram[columns]
    return codes
