"""Ridge correction of a Linear's weight for quantized inputs.

Paper: ERQ, https://arxiv.org/abs/2407.06794.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: Candidates for λ, as fractions of the Gram matrix's mean diagonal.
RIDGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)


def absorb_input_error(weight: Tensor, gram: Tensor, drift: Tensor, *, ridges: Sequence[float] = RIDGES) -> Tensor:
    """Returns the W' that minimizes ‖X W'ᵀ - (X + ΔX) Wᵀ‖² + λ ‖W' - W‖², for several λ.

    The solution is W' = W + W ΔXᵀX (XᵀX + λI)⁻¹ (ERQ, "activation quantization error reduction").

    Args:
        weight: W: (out, in).
        gram: XᵀX of the layer's inputs X: (in, in).
        drift: ΔXᵀX, where X + ΔX are the desired inputs: (in, in).
        ridges: Values of λ, as fractions of the Gram matrix's mean diagonal.

    Returns:
        One weight per λ, float64: (ridges, out, in).
    """
    gram, weight = gram.double(), weight.double()
    values, vectors = torch.linalg.eigh(gram)
    strengths = torch.tensor(ridges, dtype=torch.float64, device=gram.device)[:, None, None] * gram.diagonal().mean()
    return weight + (weight @ drift.double() @ vectors) / (values + strengths) @ vectors.T
