"""Fill values, such as a masked logit of -1e9: they would hide any error in the values beside them."""

from __future__ import annotations

import torch
from torch import Tensor

#: A value equal on both sides is a fill above this multiple of the typical magnitude. Normal values
#: reach 8 times the typical magnitude.
FILL_RATIO = 32.0
#: The typical magnitude is estimated from about this many values.
_SAMPLE = 1 << 18
#: Relative difference of two values that a mask of the same value is added to, at most.
_ADDED = 0.5
#: Most values of added masks that are told apart, and fewest distinct values beside them.
_MOST_FILLS, _LEAST_VALUES = 4, 4


def fill_values(found: Tensor, expected: Tensor, near: float = 0.0, *, added: bool = False) -> Tensor:
    """Returns which values are fills: exactly equal in both tensors, and far greater than the others.

    The typical magnitude is the median of the distinct values, so the number of fills does not
    matter. A value that differs is never a fill, however large it is.

    Args:
        found: Computed values.
        expected: Expected values, of the same shape.
        near: Relative difference that fills may have, such as between float32 and float64.
        added: Whether a mask may have been added to values, as in ``logits + mask * -1e4``. Such fills
            differ by as much as these values.

    Returns:
        A boolean tensor of the same shape, all False for integers.
    """
    if not expected.is_floating_point():
        return torch.zeros_like(expected, dtype=torch.bool)
    found, expected = found.detach(), expected.detach()
    magnitudes = expected.abs()
    near = max(near, _ADDED) if added else near
    equal = (found - expected).abs() <= near * magnitudes if near else found == expected
    return equal & great_values(expected, added=added)


def repeated_fills(values: Tensor) -> Tensor:
    """Returns which values are fills without a tensor to compare with: equally large, and repeated."""
    great = fill_values(values, values)
    if great.any():
        _, kind, counts = values.detach()[great].unique(return_inverse=True, return_counts=True)
        great[great.clone()] = (counts > 1)[kind]
    return great


def great_values(values: Tensor, *, added: bool = False) -> Tensor:
    """Returns which floats are finite and far greater than the others.

    Args:
        values: The values.
        added: See ``fill_values``.
    """
    magnitudes = values.detach().abs()
    return values.isfinite() & (magnitudes > FILL_RATIO * _typical(magnitudes, added=added))


def _typical(magnitudes: Tensor, *, added: bool) -> float:
    """Returns the median of the distinct finite values above zero, or infinity if there are none.

    A mask that is added gives as many distinct values as it masks. These lie close to one another and
    far from the others, and are left out.
    """
    sample = magnitudes.flatten()[:: max(1, magnitudes.numel() // _SAMPLE)]
    rest = sample[sample.isfinite() & (sample > 0)].unique()
    typical = float(rest.median()) if rest.numel() else float("inf")
    for _ in range(_MOST_FILLS if added else 0):
        near = rest > rest[-1] / 2 if rest.numel() else rest
        group, rest = rest[near.bool()], rest[~near.bool()]
        if rest.numel() < _LEAST_VALUES:
            break
        if group[0] > 2 * rest[-1] and group[0] > FILL_RATIO * (median := float(rest.median())):
            typical = median
    return typical
