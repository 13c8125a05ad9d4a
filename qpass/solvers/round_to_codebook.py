"""Refines a codebook and the codes of a weight in turn."""

from __future__ import annotations

import copy

from torch import Tensor

from qpass.quantizers import WeightCodebook
from qpass.solvers.codebook_levels import best_levels
from qpass.solvers.coordinate_descent import descend
from qpass.solvers.gptq import DAMPING, damped

#: Alternations between levels and codes. A third lowers the error by less than a hundredth.
_ROUNDS = 2


def refine_codebook(
    weight: Tensor, rounded: Tensor, codebook: WeightCodebook, gram: Tensor, drift: Tensor, *, damping: float = DAMPING
) -> tuple[WeightCodebook, Tensor]:
    """Returns the codebook with better levels, and a weight whose nearest levels are better codes.

    Alternates between the best levels for the codes and a pass of coordinate descent over the codes.
    Only rounding the levels to bytes can raise the error ‖X W'ᵀ - (X + ΔX) Wᵀ‖². As in GPTQ, each
    value of the weight is that just before its rounding: learning moves those near a boundary first.

    Args:
        weight: W: (out, in).
        rounded: W', or a weight whose nearest levels are W': (out, in).
        codebook: The codebook.
        gram: XᵀX of the layer's inputs X: (in, in).
        drift: ΔXᵀX, where X + ΔX are the desired inputs: (in, in).
        damping: Fraction of the Gram matrix's mean diagonal that is added to its diagonal.
    """
    gram = damped(gram, damping)
    wanted = weight.double() @ (gram + drift.double())
    for _ in range(_ROUNDS):
        codes, tables = codebook.encode(rounded), codebook.tables(len(weight))
        levels = best_levels(codes, gram, wanted, levels=codebook.table, scale=codebook.scale, tables=tables)
        better = copy.deepcopy(codebook).set_levels(levels, codebook.scale)
        # Bytes are ascending and levels need not be: their nearest bytes are the codes of before.
        codes = better.encode(codebook.scale[:, None] * levels[tables].gather(1, codes.long()).to(codebook.scale.dtype))
        codebook, rounded = better, descend(codes, better.channel_levels(), gram, wanted).to(weight.dtype)
    return codebook, rounded
