"""Returns freed memory that the C library still holds, also while graphs run."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor, fx

#: Bytes of results after which a run returns freed memory: often enough to bound it, rarely enough
#: to cost little.
BETWEEN_RETURNS = 2**29


def return_free_memory() -> None:
    """Returns freed memory to the system where the C library supports it (glibc); elsewhere does nothing.

    glibc puts tensors of up to 32 MiB and small objects into one heap. A small object that outlives the
    tensors around it fragments the freed space, and the next tensor no longer fits. So a process that
    runs networks while it builds graphs grows to several times its live memory.
    """
    if (trim := _trim()) is not None:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    try:
        return getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (OSError, TypeError):  # Windows does not support this
        return None


class TidyInterpreter(fx.Interpreter):
    """Runs a graph like its base class, but returns freed memory meanwhile.

    For runs that leave small objects behind.
    """

    _made = 0

    def run_node(self, n: fx.Node) -> Any:
        """Runs one node."""
        result = super().run_node(n)
        self.made(result)
        return result

    def made(self, result: Any) -> None:
        """Counts the bytes of new tensors, and returns freed memory every ``BETWEEN_RETURNS`` bytes."""
        tensors = (leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor))
        self._made += sum(tensor.nbytes for tensor in tensors if not tensor._is_view())
        if self._made > BETWEEN_RETURNS:
            self._made = 0
            return_free_memory()
