"""Rounding of a weight, column by column, with the error of each made up for by those still to come.

Papers: GPTQ, https://arxiv.org/abs/2210.17323; GPTAQ, https://arxiv.org/abs/2504.02692.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qpass.quantizers import Quantizer

#: Share of the mean diagonal of the Gram matrix that is added to its diagonal.
DAMPING = 0.01
#: Columns between two updates of all that follow.
_BLOCK = 64


def gptq(
    weight: Tensor,
    quantizer: Quantizer,
    gram: Tensor,
    drift: Tensor | None = None,
    *,
    shares: Sequence[float] = (1.0,),
    damping: float = DAMPING,
) -> Tensor:
    """Returns weights whose quantized form W' has a small ‖X W'ᵀ - (X + α ΔX) Wᵀ‖², where W's own has a small ‖W' - W‖².

    Each column is what stood there before it was rounded: W plus what makes up for the columns rounded earlier. Columns
    go in descending order of the Gram matrix's diagonal; one without input is rounded to nearest.

    Args:
        weight: W: (out, in).
        quantizer: One scale for each output channel, fitted.
        gram: XᵀX of the inputs that the layer gets: (in, in).
        drift: ΔXᵀX, where ΔX is what the float network's inputs have over those: (in, in); None for no difference (GPTQ).
        shares: Values of GPTAQ's α; a lesser one follows the float network less.
        damping: Share of the mean diagonal that is added to the Gram matrix.

    Returns:
        A weight for each share: (shares, out, in).
    """
    gram = gram.double()
    order = gram.diagonal().argsort(descending=True, stable=True)
    gram = gram[order][:, order]
    unused = gram.diagonal() == 0
    gram.diagonal().add_(damping * gram.diagonal().mean()).masked_fill_(unused, 1.0)
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
            rounded = quantizer(compensated[..., i].T).T.double()  # (shares, out): a scale for each output channel
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
