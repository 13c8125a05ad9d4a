"""Runs of the caller's model that leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from qpass.functionalize import without_autocast


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Puts a model into eval mode and float32, and restores its modes, buffers, attributes and the random state afterwards.

    Args:
        model: Run inside, without gradients. Buffers that a run replaces, resizes or writes into are restored, and so are
            attributes that it sets, such as caches.
    """
    modules = list(model.modules())
    attributes = [(module, dict(module.__dict__), dict(module._buffers)) for module in modules]
    values = [(tensor, tensor.clone()) for module in modules for tensor in module._buffers.values() if tensor is not None]
    model.eval()
    try:
        with without_autocast(), torch.random.fork_rng(), torch.no_grad():
            yield
    finally:
        for module, own, buffers in attributes:
            _reset(module.__dict__, own)  # the modes, too
            _reset(module._buffers, buffers)
        with torch.no_grad():
            for tensor, before in values:
                if tensor.shape != before.shape:
                    tensor.data = before
                elif not torch.equal(tensor, before):
                    tensor.copy_(before)


def _reset(entries: dict[str, Any], before: dict[str, Any]) -> None:
    entries.clear()
    entries.update(before)
