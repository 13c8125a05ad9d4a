"""Atomic writes: a file is replaced completely or not at all, however the process ends."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qpass.errors import DataError

#: Marks the temporary folder of a draft: ``.<file name>.draft-<process id>-<random letters>``.
_DRAFT = ".draft-"


@contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """Yields the path of a draft that replaces ``path`` when the block ends, or is deleted if it raises.

    Files written beside the draft are moved beside ``path`` first.

    Args:
        path: The file; its folder must exist.

    Raises:
        OSError: If the folder cannot be written to.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}{_DRAFT}{os.getpid()}-") as folder:
        draft = Path(folder) / path.name
        yield draft
        for other in Path(folder).iterdir():
            if other != draft:
                os.replace(other, path.parent / other.name)
        os.replace(draft, path)


def write_whole(path: Path, text: str) -> None:
    """Writes a text in UTF-8, atomically.

    Raises:
        DataError: If it cannot be written; an existing file is kept.
    """
    try:
        with draft_of(path) as draft:
            draft.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot be written ({error.strerror})", where=str(path)) from error


def remove_drafts(folder: Path) -> None:
    """Removes drafts that killed processes left in this folder; running processes keep theirs."""
    for draft in folder.glob(f".*{_DRAFT}*"):
        owner, dash, _ = draft.name.rpartition(_DRAFT)[2].partition("-")
        if dash and owner.isdecimal() and int(owner) != os.getpid() and not _runs(int(owner)):
            shutil.rmtree(draft, ignore_errors=True)


def _runs(pid: int) -> bool:
    """Returns whether a process of this machine is running; True if this cannot be determined."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
