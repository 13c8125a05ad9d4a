"""Autocast regions in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

#: Patched is the class itself: torch.autocast, its subclasses and its use as a decorator all enter through it.
_AUTOCAST = torch.amp.autocast_mode.autocast


@contextmanager
def without_autocast() -> Iterator[None]:
    """Disables every ``torch.autocast`` inside the block, including those inside a model.

    A graph is quantized from float32. What a model looks up under autocast, such as the dtype that it casts to, is then float32
    as well, and a model and its graph are compared in the same precision.
    """
    kept = {name: getattr(_AUTOCAST, name) for name in ("__enter__", "__exit__")}
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        _AUTOCAST.__enter__ = lambda self: self  # type: ignore[method-assign]
        _AUTOCAST.__exit__ = lambda self, *_: None  # type: ignore[method-assign,assignment,misc]
        try:
            yield
        finally:
            for name, method in kept.items():
                setattr(_AUTOCAST, name, method)
