"""Memory that was freed and that the C library still holds."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


def return_free_memory() -> None:
    """Returns freed memory to the system where the C library can do so (glibc); elsewhere it does nothing.

    glibc puts tensors of up to 32 MiB and small objects into one heap. A small object that outlives the tensors around it
    splits the room that they leave, and the next tensor no longer fits in. So a process that runs networks while it builds
    graphs grows to several times what is alive.
    """
    if (trim := _trim()) is not None:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    try:
        return getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (OSError, TypeError):  # Windows has no library of that kind
        return None
