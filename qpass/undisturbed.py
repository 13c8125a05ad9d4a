"""Runs of the caller's model that leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from qpass.functionalize import without_autocast
from qpass.snapshot import Snapshot
from qpass.torch_modes import kept_random_state


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Puts a model into eval mode and float32, and restores it and the random state afterwards.

    Args:
        model: Run inside, without gradients. What a run changes in it is restored: see ``Snapshot``.
    """
    before = Snapshot(model)
    model.eval()
    try:
        with without_autocast(), kept_random_state(), torch.no_grad():
            yield
    finally:
        before.restore()
