"""The levels of a weight's codebook with the least output error, given the codes of the weight."""

from __future__ import annotations

import torch
from torch import Tensor

#: Values of one-hot codes held at once.
_AT_ONCE = 2**23
#: Ridge towards the present levels, as a fraction of the system's mean diagonal. It decides only
#: where the layer's inputs leave levels open.
_RIDGE = 1e-8


def best_levels(codes: Tensor, gram: Tensor, wanted: Tensor, *, levels: Tensor, scale: Tensor, tables: Tensor) -> Tensor:
    """Returns the levels with the least error ½ tr(W' H W'ᵀ) - tr(W' Cᵀ) of the weight W' they make.

    Row c of W' is s_c A_c l, with A_c the one-hot matrix of its codes and l the levels of its table.
    These solve a 2^k x 2^k system: Σ_c s_c² A_cᵀ H A_c l = Σ_c s_c A_cᵀ C_c over a table's rows.

    Args:
        codes: Index of the level of each weight: (out, in).
        gram: H: (in, in), float64.
        wanted: C: (out, in), float64.
        levels: The present levels: (tables, 2^k). A level that no weight has keeps its value.
        scale: s: (out,).
        tables: Index of each row's table: (out,).

    Returns:
        The levels in float64, in the order of the codes: (tables, 2^k).
    """
    levels, scale, count = levels.double(), scale.double(), levels.shape[1]
    matrix, vector = levels.new_zeros(*levels.shape, count), torch.zeros_like(levels)
    for rows in torch.arange(len(codes), device=codes.device).split(max(1, _AT_ONCE // (codes.shape[1] * count))):
        one_hot = torch.nn.functional.one_hot(codes[rows].long(), count).double() * scale[rows, None, None]  # (rows, in, 2^k)
        matrix.index_add_(0, tables[rows], one_hot.mT @ (gram @ one_hot))
        vector.index_add_(0, tables[rows], (one_hot.mT @ wanted[rows, :, None])[..., 0])
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    ridge = torch.where(diagonal > 0, _RIDGE * diagonal.mean(1, keepdim=True), 1.0)
    return torch.linalg.solve(matrix + ridge.diag_embed(), vector + ridge * levels)
