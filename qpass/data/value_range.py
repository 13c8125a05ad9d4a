"""What the range of images' values says about their preprocessing."""

from __future__ import annotations

from enum import StrEnum

#: Values of normalized images rarely exceed 4; those of bytes reach 255.
LARGEST_NORMALIZED = 20.0


class ValueRange(StrEnum):
    """What values look like."""

    CONSTANT = "constant"
    UNIT = "pixels between 0 and 1"
    BYTES = "bytes"
    NORMALIZED = "normalized"


def range_of_values(low: float, high: float) -> ValueRange:
    """Returns what values from ``low`` to ``high`` look like."""
    if low == high:
        return ValueRange.CONSTANT
    if high > LARGEST_NORMALIZED:
        return ValueRange.BYTES
    return ValueRange.UNIT if low >= 0 and high <= 1 else ValueRange.NORMALIZED
