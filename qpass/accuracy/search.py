"""Finds the first of a sequence of candidates that meets a goal, by trying few of them."""

from __future__ import annotations

from collections.abc import Callable


def first_that_meets(count: int, landmark: int, meets: Callable[[int], bool]) -> int | None:
    """Returns the index of a candidate that meets the goal while the one before it does not.

    Where a later candidate is never worse, this is the first one that meets it. Tries the first, then
    the landmark. If that meets the goal, halves what lies between them; if not, goes beyond it in
    steps that double, and halves the last of these.

    Args:
        count: Number of candidates, from the one that costs least.
        landmark: Index of a candidate that is likely to meet the goal.
        meets: Tries a candidate.

    Returns:
        The index, or None if the last candidate was tried and does not meet the goal.
    """
    if meets(0):
        return 0
    below = 0
    if landmark > 0:
        if meets(landmark):
            return _between(below, landmark, meets)
        below = landmark
    step = 1
    while below < count - 1:
        above = min(below + step, count - 1)
        if meets(above):
            return _between(below, above, meets)
        below, step = above, 2 * step
    return None


def _between(fails: int, met: int, meets: Callable[[int], bool]) -> int:
    while met - fails > 1:
        middle = (fails + met) // 2
        fails, met = (fails, middle) if meets(middle) else (middle, met)
    return met
