"""Rounds a weight column by column; later columns compensate for the error of earlier ones.

Papers: GPTQ, https://arxiv.org/abs/2210.17323; GPTAQ, https://arxiv.org/abs/2504.02692.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qpass.quantizers import Quantizer

#: Fraction of the Gram matrix's mean diagonal that is added to its diagonal.
DAMPING = 0.01
#: Columns between two updates of all later columns.
_BLOCK = 64


def damped(gram: Tensor, damping: float) -> Tensor:
    """Returns a Gram matrix with a positive diagonal: (in, in), float64.

    Args:
        gram: XᵀX of the layer's inputs X: (in, in).
        damping: Fraction of the mean diagonal that is added to the diagonal. Inputs that are always
            zero get 1 instead.
    """
    gram = gram.double().clone()
    unused = gram.diagonal() == 0
    gram.diagonal().add_(damping * gram.diagonal().mean()).masked_fill_(unused, 1.0)
    return gram


def gptq(
    weight: Tensor,
    quantizer: Quantizer,
    gram: Tensor,
    drift: Tensor | None = None,
    *,
    shares: Sequence[float] = (1.0,),
    damping: float = DAMPING,
) -> Tensor:
    """Returns weights whose quantized form W' has a small output error ‖X W'ᵀ - (X + α ΔX) Wᵀ‖².

    Plain rounding minimizes ‖W' - W‖² instead. Each returned column is the value just before its
    rounding: W plus the compensation for the columns rounded earlier. Columns are processed in
    descending order of the Gram matrix's diagonal; a column without input is rounded to nearest.

    Args:
        weight: W: (out, in).
        quantizer: Fitted quantizer, one scale per output channel.
        gram: XᵀX of the layer's inputs X: (in, in).
        drift: ΔXᵀX, where X + ΔX are the float network's inputs: (in, in); None for ΔX = 0 (GPTQ).
        shares: Values of GPTAQ's α; a smaller one follows the float network less.
        damping: Fraction of the mean diagonal that is added to the Gram matrix's diagonal.

    Returns:
        One weight per share: (shares, out, in).
    """
    gram = gram.double()
    order = gram.diagonal().argsort(descending=True, stable=True)
    gram = damped(gram[order][:, order], damping)
    factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(gram)), upper=True)
    pull = None if drift is None else (drift.double()[order][:, order] @ factor.T).triu(1) @ factor
    columns = weight.shape[1]
    alpha = torch.tensor(shares, dtype=torch.float64, device=weight.device)[:, None, None]
    remaining = weight.double()[:, order].repeat(len(shares), 1, 1)
    compensated = torch.empty_like(remaining, dtype=weight.dtype)
    for start in range(0, columns, _BLOCK):
        block = slice(start, min(start + _BLOCK, columns))
        behind = slice(block.stop, None)
        errors, pulled = torch.empty_like(remaining[..., block]), torch.empty_like(remaining[..., block])
        for i in range(block.start, block.stop):
            column = remaining[..., i].clone()
            compensated[..., i] = column
            rounded = quantizer(compensated[..., i].T).T.double()  # (shares, out): one scale per output channel
            error = (column - rounded) / factor[i, i]
            rest = slice(i, block.stop)
            remaining[..., rest] -= error[..., None] * factor[i, rest]
            if pull is not None:
                remaining[..., rest] += alpha * column[..., None] * pull[i, rest]
            errors[..., i - start], pulled[..., i - start] = error, column
        remaining[..., behind] -= errors @ factor[block, behind]
        if pull is not None:
            remaining[..., behind] += alpha * pulled @ pull[block, behind]
    return compensated[..., order.argsort()]
