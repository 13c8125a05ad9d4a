"""Tells the user that a run resumes, and how to resume one that is interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qpass.cli.options import note


@contextmanager
def resumable(kind: str, folder: Path) -> Iterator[None]:
    """Says how many blocks an earlier run saved; if the block is interrupted, says how to resume.

    Args:
        kind: What the run saves: ``"block"``, ``"candidate"``, or ``""`` for nothing.
        folder: Where it saves them.
    """
    saved = len(list(folder.glob("*.safetensors"))) if kind == "block" else 0
    if saved:
        note(f"resuming: {saved} block{'s' * (saved != 1)} saved in {folder}")
    try:
        yield
    except KeyboardInterrupt:
        if kind:
            note(f"interrupted: the same command resumes after the last {kind} saved in {folder}")
        raise
