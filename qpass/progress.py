"""Progress on standard error, so that results on standard output stay clean.

A terminal shows bars. Anything else, such as a log, gets a line every ``LINE_SECONDS``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
#: Seconds between the lines of a log. Steps that end earlier write none.
LINE_SECONDS = 30.0
_SILENT = ContextVar("silent", default=False)


@contextmanager
def no_progress() -> Iterator[None]:
    """Shows no progress inside the block, whatever functions are asked for."""
    token = _SILENT.set(True)
    try:
        yield
    finally:
        _SILENT.reset(token)


def say(line: str, *, show: bool = True) -> None:
    """Writes a line about how far a run is."""
    if show and not _SILENT.get():
        print(line, file=sys.stderr, flush=True)


def track(items: Iterable[T], label: str, *, show: bool = True, total: int | None = None) -> Iterator[T]:
    """Yields items and shows a bar with the time left; ``total`` is their number if they have no length."""
    if not show or _SILENT.get():
        yield from items
        return
    with StepBar(len(items) if isinstance(items, Sized) else total, show=show) as bar:
        bar.label = label
        for item in items:
            yield item
            bar.advance()


class StepBar:
    """A bar that is advanced manually; its label may change.

    Args:
        total: Total number of steps; None if unknown.
        show: Whether to draw it.
    """

    def __init__(self, total: int | None, *, show: bool = True) -> None:
        self.label = ""
        columns = (TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console, shown = Console(stderr=True), show and not _SILENT.get()
        self._bar = Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal))
        self._task = self._bar.add_task("", total=total)
        self._writes_lines = shown and not console.is_terminal
        self._begun = self._last = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def advance(self) -> None:
        """Advances by one step."""
        self._bar.update(self._task, advance=1, description=self.label)
        now = time.monotonic()
        if self._writes_lines and now - self._last >= LINE_SECONDS:
            self._last = now
            (task,) = self._bar.tasks
            of = "" if task.total is None else f" of {task.total:g}"
            say(f"{self.label}: {task.completed:g}{of}, {now - self._begun:.0f} s")

    def move_to(self, steps: int) -> None:
        """Moves to this many finished steps."""
        self._bar.update(self._task, completed=steps)
