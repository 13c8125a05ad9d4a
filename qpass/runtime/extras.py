"""Packages that only some uses of qpass need, and that its extras install."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from qpass.errors import DataError


@contextmanager
def from_extra(extra: str, where: str) -> Iterator[None]:
    """Turns a missing package in the block into an error that says how to install it.

    Args:
        extra: The extra of qpass that installs it.
        where: What needs it, for the message.

    Raises:
        DataError: If an import of the block fails.
    """
    try:
        yield
    except ImportError as error:
        package = (error.name or "a package").partition(".")[0]
        raise DataError(
            f"needs {package}, which is not installed", where=where, hint=f"pip install 'qpass[{extra}]'"
        ) from error
