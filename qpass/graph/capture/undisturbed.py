"""Runs of the caller's model that leave it unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from qpass.graph.capture.functionalize import without_autocast
from qpass.graph.capture.snapshot import Snapshot
from qpass.runtime.torch_modes import kept_random_state


@contextmanager
def undisturbed(model: nn.Module, *, captured: bool = False) -> Iterator[Callable[[], None]]:
    """Puts a model into eval mode and float32, and restores it and the random state afterwards.

    Yields a function that undoes the changes of one run before the next.

    Args:
        model: The model, run inside the block without gradients. Its changes are undone: see
            ``Snapshot``.
        captured: Whether torch.export captures the model inside the block. Export allows no modes
            around it, so that each run must restore the random state itself.
    """
    before = Snapshot(model)

    def as_it_came() -> None:
        before.restore()
        model.eval()

    model.eval()
    try:
        with without_autocast(), nullcontext() if captured else kept_random_state(), torch.no_grad():
            yield as_it_came
    finally:
        before.restore()
