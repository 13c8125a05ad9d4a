"""Matches the rows of two reports by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TypeVar

R = TypeVar("R")


def matched(first: Iterable[R], second: Iterable[R], name: Callable[[R], str]) -> list[tuple[str, tuple[R | None, R | None]]]:
    """Returns (name, row of the first, row of the second) for every row, in the order of the first.

    A name that occurs several times is matched by its number: reports of earlier versions repeat some.
    """
    one, other = _numbered(first, name), _numbered(second, name)
    keys = [*one, *(key for key in other if key not in one)]
    return [(key[0], (one.get(key), other.get(key))) for key in keys]


def _numbered(rows: Iterable[R], name: Callable[[R], str]) -> dict[tuple[str, int], R]:
    seen = Counter[str]()
    found = {}
    for row in rows:
        label = name(row)
        found[label, seen[label]] = row
        seen[label] += 1
    return found
