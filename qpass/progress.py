"""Progress bars on standard error, so that results on standard output stay clean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")


def track(items: Iterable[T], label: str, *, show: bool = True) -> Iterator[T]:
    """Yields the items while a bar with the time left runs along."""
    if not show:
        yield from items
        return
    columns = (TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        total = len(items) if isinstance(items, Sized) else None
        yield from bar.track(items, total=total, description=label)
