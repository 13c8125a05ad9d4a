"""How far two float32 results of the same computation may differ, value by value."""

from __future__ import annotations

import torch
from torch import Tensor

#: One rounding to float32, as a share of the value.
ROUNDING = 2.0**-24
#: Two correct implementations may differ by this share of a value: they order sums differently,
#: fold constants and approximate functions, each to a few roundings. A wrong constant moves its
#: layer by thousands of roundings.
MOVE = 64 * ROUNDING
#: A value is undecided if rounding may move it by more than this share of the largest in its
#: channel, token or sample, unless it agrees to this share anyway.
DECIDED = 1e-3


def envelope(values: Tensor, least: int = 1) -> Tensor:
    """Returns, for each value, the maximum of its channel, token or sample, whichever is smallest.

    Each of these groups shares an index in one dim. A bound from single errors is too tight where
    one of them is small by chance. A bound from the whole tensor would let a large channel hide
    errors in a small one. This one is the largest error in the value's own channel, token or
    sample.

    Args:
        values: Non-negative values of any shape; may be infinite.
        least: Groups of fewer values do not count. If every dim has only such groups, the whole
            tensor is one group.

    Returns:
        A tensor that broadcasts to the shape of ``values``.
    """
    groups = [dim for dim in range(values.dim()) if values.numel() >= least * values.shape[dim]]
    if not values.numel():
        return values
    if not groups:
        return values if least == 1 else values.amax()
    found = None
    for dim in groups:
        others = [other for other in range(values.dim()) if other != dim]
        greatest = values.amax(others, keepdim=True) if others else values
        found = greatest if found is None else torch.minimum(found, greatest)
    assert found is not None
    return found


def kinds(values: Tensor) -> Tensor:
    """Returns 0 for finite values, and distinct other numbers for NaN, infinity and minus infinity."""
    if not values.is_floating_point():
        return torch.zeros_like(values, dtype=torch.int8)
    return values.isnan().to(torch.int8) * 3 + values.isposinf().to(torch.int8) + values.isneginf().to(torch.int8) * 2


def differences(a: Tensor, b: Tensor) -> Tensor:
    """Returns |a - b| in float64: 0 where both are NaN or the same infinity, infinity where only one is."""
    difference = (a.double() - b.double()).abs_()
    if difference.isfinite().all():
        return difference
    same = kinds(a) == kinds(b)
    return torch.where(same, difference.nan_to_num(nan=0.0), torch.inf)
