"""Tells the user that a run resumes, and how to resume one that is interrupted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qpass.accuracy.trials import TRIALS
from qpass.cli.options import note


@contextmanager
def resumable(kind: str, folder: Path) -> Iterator[None]:
    """Says how much an earlier run saved; if the block is interrupted, says how to resume.

    Args:
        kind: What the run saves: ``"block"``, ``"candidate"``, or ``""`` for nothing.
        folder: Where it saves them.
    """
    saved = _saved(kind, folder)
    if saved:
        note(
            f"resuming: {saved} {kind}{'s' * (saved != 1)} {'tried before, in' if kind == 'candidate' else 'saved in'} {folder}"
        )
    try:
        yield
    except KeyboardInterrupt:
        if kind:
            note(f"interrupted: the same command resumes after the last {kind} saved in {folder}")
        raise


def _saved(kind: str, folder: Path) -> int:
    if kind == "block":
        return len(list(folder.glob("*.safetensors")))
    try:
        return len(json.loads((folder / TRIALS).read_text(encoding="utf-8"))["trials"]) if kind == "candidate" else 0
    except (OSError, ValueError, LookupError, TypeError):
        return 0  # none was tried; of a damaged file, the search says what is wrong
