"""Values that stand for nothing, such as a masked logit of -1e9: they would hide every error in the values beside them."""

from __future__ import annotations

import torch
from torch import Tensor

#: A value that both sides have is a fill from this multiple of a typical magnitude on; normal values reach 8 times as much.
FILL_RATIO = 32.0
#: The typical magnitude is that of about so many values.
_SAMPLE = 1 << 18


def fill_values(found: Tensor, expected: Tensor, near: float = 0.0) -> Tensor:
    """Tells which values of a tensor are fills: equal to the bit in both, and far greater than the others.

    The typical magnitude is the median over distinct values, so it does not matter how many are fills. A value that differs is
    never one, however large it is.

    Args:
        found: What was computed, of the same shape.
        expected: What should have been.
        near: Fills may differ by this share of themselves, such as between float32 and float64.

    Returns:
        A boolean tensor of their shape, False throughout for integers.
    """
    if not expected.is_floating_point():
        return torch.zeros_like(expected, dtype=torch.bool)
    found, expected = found.detach(), expected.detach()
    magnitudes = expected.abs()
    equal = (found - expected).abs() <= near * magnitudes if near else found == expected
    return equal & expected.isfinite() & (magnitudes > FILL_RATIO * _typical(magnitudes))


def repeated_fills(values: Tensor) -> Tensor:
    """Tells which values are fills where there is nothing to compare with: as great as those, and found more than once."""
    great = fill_values(values, values)
    if great.any():
        _, kind, counts = values.detach()[great].unique(return_inverse=True, return_counts=True)
        great[great.clone()] = (counts > 1)[kind]
    return great


def _typical(magnitudes: Tensor) -> float:
    """Returns the median of distinct finite values above zero, infinity if there are none."""
    sample = magnitudes.flatten()[:: max(1, magnitudes.numel() // _SAMPLE)]
    distinct = sample[sample.isfinite() & (sample > 0)].unique()
    return float(distinct.median()) if distinct.numel() else float("inf")
