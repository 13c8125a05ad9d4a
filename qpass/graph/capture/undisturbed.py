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
def without_gradients(model: nn.Module) -> Iterator[None]:
    """Makes parameters require no gradients inside the block.

    In a region of a forward that enables gradients, torch refuses ``out=`` and writes to views that
    were made without gradients, for values that require any. Inference does not need them.
    """
    required = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in required:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in required:
            parameter.requires_grad_(True)


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
        random_state = nullcontext() if captured else kept_random_state()
        with without_autocast(), random_state, torch.no_grad(), without_gradients(model):
            yield as_it_came
    finally:
        before.restore()
