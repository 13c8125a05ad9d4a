"""Reads a file with bounded memory."""

from __future__ import annotations

from pathlib import Path

from qpass.errors import DataError


def read_regular_file(path: Path, most: int, expected: str) -> bytes:
    """Returns the bytes of a regular file.

    Args:
        path: The file; links are followed.
        most: Maximum bytes.
        expected: What it should hold, for messages.

    Raises:
        DataError: If the path is not a regular file (such as a pipe), is too large, or cannot be read.
    """
    where = str(path)
    try:
        if not path.exists():
            raise DataError("does not exist", where=where, expected=expected)
        if not path.is_file():
            raise DataError("is not a file", where=where, expected=expected, hint="move it away, or rename it")
        if (size := path.stat().st_size) > most:
            raise DataError(f"has {size} bytes", where=where, expected=f"{expected} of at most {most} bytes")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # a path with a null character is a ValueError
        raise DataError(f"cannot be read: {error}", where=where, expected=expected) from error
