"""Source lines outside torch where an export treats a size as a constant or branches on it."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

#: Input sizes at which conditions and derived sizes are evaluated.
TRIED_SIZES = range(1, 17)
#: Files of torch that are on the stack when a forward itself compares a size.
_OPERATORS = ("sym_node.py", "symbolic_shapes.py", "__init__.py")
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


@dataclass
class SizeLines:
    """Lines recorded during exports.

    Attributes:
        fixed: Lines that fix a size; '' where the line is unknown.
        branches: Conditions on sizes that a forward itself evaluates, with their results and lines.
    """

    fixed: list[str] = field(default_factory=list)
    branches: list[tuple[Any, Any, str]] = field(default_factory=list)

    def fixing(self) -> str:
        """Returns the first line that fixes a size, or ''."""
        return next(filter(None, self.fixed), "")

    def branching(self, sizes: Sequence[int] = TRIED_SIZES) -> str:
        """Returns the first line whose condition has another result for some of these sizes, or ''."""
        for condition, answer, line in self.branches:
            answers = [condition.subs(dict.fromkeys(condition.free_symbols, size)) for size in sizes]
            if any(other != answer for other in answers if other in (True, False)):
                return line
        return ""


@contextmanager
def size_lines() -> Iterator[SizeLines]:
    """Records lines while the block runs; other threads must not export meanwhile.

    The patched functions are private in torch. If they are removed, the lines are unknown.
    """
    lines = SizeLines()
    replace, evaluate = (getattr(ShapeEnv, name, None) for name in ("_set_replacement", "evaluate_expr"))

    def replacing(self: ShapeEnv, symbol: Any, target: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(target, "is_number", False):
            lines.fixed.append(_line_outside_torch(_stack()))
        assert replace is not None
        return replace(self, symbol, target, *args, **kwargs)

    def evaluating(self: ShapeEnv, condition: Any, *args: Any, **kwargs: Any) -> Any:
        assert evaluate is not None
        answer = evaluate(self, condition, *args, **kwargs)
        if answer in (True, False) and getattr(condition, "free_symbols", None) and (line := _asking_line(_stack())):
            lines.branches.append((condition, answer, line))
        return answer

    watched = {"_set_replacement": (replace, replacing), "evaluate_expr": (evaluate, evaluating)}
    watched = {name: pair for name, pair in watched.items() if pair[0] is not None}
    for name, (_, watcher) in watched.items():
        setattr(ShapeEnv, name, watcher)
    try:
        yield lines
    finally:
        for name, (original, _) in watched.items():
            setattr(ShapeEnv, name, original)


def line_of(source: fx.Node | BaseException) -> str:
    """Returns the innermost line outside torch that made an exported node or raised an error, or ''."""
    if isinstance(source, fx.Node):
        found = _FRAME.findall(source.meta.get("stack_trace") or "")
        return _line_outside_torch([(file, int(number)) for file, number in found])
    return _line_outside_torch([(f.filename, f.lineno or 0) for f in traceback.extract_tb(source.__traceback__)])


#: Beginnings of the file names of torch, of this package, and of generated code.
_INTERNAL = (*(f"{Path(file).parent}{os.sep}" for file in (torch.__file__, __file__)), "<")


def _stack() -> list[tuple[str, int]]:
    return [(frame.f_code.co_filename, number) for frame, number in reversed(list(traceback.walk_stack(None)))]


def _line_outside_torch(frames: Iterable[tuple[str, int]]) -> str:
    """Returns the innermost line that is neither in torch nor in this package, or ''."""
    found = [(file, line) for file, line in frames if not _is_internal(file)]
    return f"{Path(found[-1][0]).name}:{found[-1][1]}" if found else ""


def _asking_line(frames: Sequence[tuple[str, int]]) -> str:
    """Returns the line that compares sizes itself, or '' if a function of torch does."""
    last = max((place for place, (file, _) in enumerate(frames) if not _is_internal(file)), default=None)
    if last is None or any(Path(file).name not in (*_OPERATORS, Path(__file__).name) for file, _ in frames[last + 1 :]):
        return ""
    return _line_outside_torch(frames)


def _is_internal(file: str) -> bool:
    return file.startswith(_INTERNAL)
