"""Runs of the caller's model that leave it as it was."""

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

    Gives a function that undoes what a run has changed, for the next one.

    Args:
        model: Run inside, without gradients. What a run changes in it is restored: see ``Snapshot``.
        captured: Whether torch.export captures it inside. That takes no modes around it: runs keep the random state themselves.
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
