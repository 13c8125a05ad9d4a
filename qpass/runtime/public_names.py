"""What ``dir`` and tab completion show of a package: its public names, without what it imports."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def only(names: Sequence[str]) -> Callable[[], list[str]]:
    """Returns the ``__dir__`` of a package that shows these names alone."""
    return lambda: list(names)
