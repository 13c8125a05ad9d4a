"""Files that are written whole or not at all, however the process ends."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qpass.errors import DataError

#: Ends the name of the folder that holds a draft, behind the file's own and before the process and some letters at random.
_DRAFT = ".draft-"


@contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """Gives the path of a draft, which takes the place of ``path`` when the block ends, and vanishes if it raises.

    Files that are written beside the draft are moved beside ``path``, before it.

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
    """Writes a text in UTF-8.

    Raises:
        DataError: If it cannot be written; what lay there stays.
    """
    try:
        with draft_of(path) as draft:
            draft.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot be written ({error.strerror})", where=str(path)) from error


def remove_drafts(folder: Path) -> None:
    """Removes the drafts of processes that were killed while they wrote into this folder; others keep theirs."""
    for draft in folder.glob(f".*{_DRAFT}*"):
        owner, dash, _ = draft.name.rpartition(_DRAFT)[2].partition("-")
        if dash and owner.isdecimal() and int(owner) != os.getpid() and not _runs(int(owner)):
            shutil.rmtree(draft, ignore_errors=True)


def _runs(pid: int) -> bool:
    """Tells whether a process of this machine runs; where nobody can tell it is taken to."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
