"""One run per folder at a time: a lock file names its process, and is taken over once that has ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from qpass.errors import DataError

LOCK = ".qpass.lock"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps other runs out of a folder until the block ends.

    Args:
        folder: Folder for the lock file.

    Raises:
        DataError: If another run holds the lock (the message names its process), or the lock file
            cannot be written.
    """
    path = folder / LOCK
    lock = filelock.SoftFileLock(path, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise DataError(
            f"another run writes here, {_holder(path)}",
            where=str(folder),
            hint=f"wait for its end, or give another folder; if there is no such run, delete {path}",
        ) from error
    except OSError as error:
        raise DataError(f"cannot be written to ({error.strerror})", where=str(folder)) from error
    try:
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    try:
        pid, host, *_ = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return "or one was killed as it began"
    return f"process {pid} on {host}"
