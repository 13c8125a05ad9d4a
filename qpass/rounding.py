"""Rounding of a weight, column by column, with the error of each made up for by those still to come.

Papers: GPTQ, https://arxiv.org/abs/2210.17323; GPTAQ, https://arxiv.org/abs/2504.02692.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qpass.quantizers import Quantizer

#: Share of the mean diagonal of the Gram matrix that is added to its diagonal.
DAMPING = 0.01
#: Columns between two updates of all that follow.
_BLOCK = 64


def round_with_feedback(
    weight: Tensor, quantizer: Quantizer, gram: Tensor, drift: Tensor | None = None, *, damping: float = DAMPING
) -> Tensor:
    """Returns the quantized weight W' with ‖X W'ᵀ - (X + ΔX) Wᵀ‖² small, where rounding to nearest minimises ‖W' - W‖².

    Columns go in descending order of the Gram matrix's diagonal; a column without input is rounded to nearest.

    Args:
        weight: W: (out, in).
        quantizer: One scale for each output channel, fitted.
        gram: XᵀX of the inputs that the layer gets: (in, in).
        drift: ΔXᵀX, where ΔX is what the float network's inputs have over those: (in, in); None for no difference (GPTQ). Scale
            it to follow the float network less (GPTAQ's α).
        damping: Share of the mean diagonal that is added to the Gram matrix.
    """
    gram = gram.double()
    order = gram.diagonal().argsort(descending=True, stable=True)
    gram = gram[order][:, order]
    unused = gram.diagonal() == 0
    gram.diagonal().add_(damping * gram.diagonal().mean()).masked_fill_(unused, 1.0)
    factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(gram)), upper=True)
    pull = None if drift is None else (drift.double()[order][:, order] @ factor.T).triu(1) @ factor
    remaining, rounded = weight.double()[:, order], torch.empty_like(weight, dtype=torch.float64)
    for start in range(0, remaining.shape[1], _BLOCK):
        stop = min(start + _BLOCK, remaining.shape[1])
        errors, columns = remaining.new_empty(len(weight), stop - start), remaining.new_empty(len(weight), stop - start)
        for i in range(start, stop):
            column = remaining[:, i].clone()
            rounded[:, i] = quantizer(column.float()[:, None])[:, 0].double()
            error = (column - rounded[:, i]) / factor[i, i]
            remaining[:, i:stop] -= torch.outer(error, factor[i, i:stop])
            if pull is not None:
                remaining[:, i:stop] += torch.outer(column, pull[i, i:stop])
            errors[:, i - start], columns[:, i - start] = error, column
        remaining[:, stop:] -= errors @ factor[start:stop, stop:]
        if pull is not None:
            remaining[:, stop:] += columns @ pull[start:stop, stop:]
    return rounded[:, order.argsort()].to(weight.dtype)
