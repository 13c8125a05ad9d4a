"""Runs autocast regions in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from qpass.runtime.torch_modes import AUTOCAST_DEVICES, no_autocast


class _Float32(TorchFunctionMode):
    """Disables autocast again before each function that an autocast region calls.

    A region sets a thread-local flag on entry and resets it on exit, so other threads are unaffected.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See ``TorchFunctionMode``."""
        if not torch.compiler.is_dynamo_compiling():
            for device in AUTOCAST_DEVICES:
                if torch.is_autocast_enabled(device):
                    torch.set_autocast_enabled(device, False)
        return func(*args, **(kwargs or {}))


@contextmanager
def without_autocast() -> Iterator[None]:
    """Disables every ``torch.autocast`` inside the block, including those inside a model, in this thread.

    A graph is quantized from float32. Results in autocast regions, to whose dtype a model may cast
    other tensors, are then float32 too, and a model and its graph are compared in one precision.
    """
    with no_autocast(), _Float32():
        yield
