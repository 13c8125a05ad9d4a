"""Progress bars on standard error, so that results on standard output stay clean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")


def _bar() -> Progress:
    columns = (TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)  # a log would get blank lines


def track(items: Iterable[T], label: str, *, show: bool = True, total: int | None = None) -> Iterator[T]:
    """Yields items and shows a bar with the time left; ``total`` is their number if they have no length."""
    if not show:
        yield from items
        return
    with _bar() as bar:
        total = len(items) if isinstance(items, Sized) else total
        yield from bar.track(items, total=total, description=label)


class StepBar:
    """A bar that is advanced manually; its label may change.

    Args:
        total: Total number of steps.
        show: Whether to draw it.
    """

    def __init__(self, total: int, *, show: bool = True) -> None:
        self.label = ""
        self._bar = _bar()
        self._bar.disable |= not show
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def advance(self) -> None:
        """Advances by one step."""
        self._bar.update(self._task, advance=1, description=self.label)

    def move_to(self, steps: int) -> None:
        """Moves to this many finished steps."""
        self._bar.update(self._task, completed=steps)
