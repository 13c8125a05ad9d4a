"""Reads files with bounded memory."""

from __future__ import annotations

from pathlib import Path

from qpass.errors import DataError

#: Maximum bytes of a text file, such as a table of labels.
LARGEST_TABLE = 2**26


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


def read_text(path: Path, expected: str) -> str:
    """Returns the text of a regular file in UTF-8, of at most ``LARGEST_TABLE`` bytes.

    Args:
        path: The file; links are followed.
        expected: What it should hold, for messages.

    Raises:
        DataError: As ``read_regular_file``, or if the bytes are not UTF-8.
    """
    try:
        return read_regular_file(path, LARGEST_TABLE, expected).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"cannot be read: {error}", where=str(path), expected=expected) from error
