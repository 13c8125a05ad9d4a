"""Fill values, such as a masked logit of -1e9: they would hide any error in the values beside them."""

from __future__ import annotations

import torch
from torch import Tensor

#: A value equal on both sides is a fill above this multiple of the typical magnitude. Normal values
#: reach 8 times the typical magnitude.
FILL_RATIO = 32.0
#: The typical magnitude is estimated from about this many values.
_SAMPLE = 1 << 18


def fill_values(found: Tensor, expected: Tensor, near: float = 0.0) -> Tensor:
    """Returns which values are fills: exactly equal in both tensors, and far greater than the others.

    The typical magnitude is the median of the distinct values, so the number of fills does not
    matter. A value that differs is never a fill, however large it is.

    Args:
        found: Computed values.
        expected: Expected values, of the same shape.
        near: Relative difference that fills may have, such as between float32 and float64.

    Returns:
        A boolean tensor of the same shape, all False for integers.
    """
    if not expected.is_floating_point():
        return torch.zeros_like(expected, dtype=torch.bool)
    found, expected = found.detach(), expected.detach()
    magnitudes = expected.abs()
    equal = (found - expected).abs() <= near * magnitudes if near else found == expected
    return equal & expected.isfinite() & (magnitudes > FILL_RATIO * _typical(magnitudes))


def repeated_fills(values: Tensor) -> Tensor:
    """Returns which values are fills without a tensor to compare with: equally large, and repeated."""
    great = fill_values(values, values)
    if great.any():
        _, kind, counts = values.detach()[great].unique(return_inverse=True, return_counts=True)
        great[great.clone()] = (counts > 1)[kind]
    return great


def _typical(magnitudes: Tensor) -> float:
    """Returns the median of the distinct finite values above zero, or infinity if there are none."""
    sample = magnitudes.flatten()[:: max(1, magnitudes.numel() // _SAMPLE)]
    distinct = sample[sample.isfinite() & (sample > 0)].unique()
    return float(distinct.median()) if distinct.numel() else float("inf")
