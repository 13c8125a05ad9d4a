"""Runs of the caller's model that leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from qpass.functionalize import without_autocast


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Puts a model into eval mode and in float32, and afterwards gives it back its modes, buffers and the random state.

    Args:
        model: Run inside, without gradients. Buffers that a run exchanges, resizes or writes into are restored.
    """
    training = [module for module in model.modules() if module.training]
    buffers = [(module, name, tensor, tensor.clone()) for module in model.modules() for name, tensor in _buffers(module)]
    model.eval()
    try:
        with without_autocast(), torch.random.fork_rng(), torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
        with torch.no_grad():
            for module, name, tensor, before in buffers:
                if tensor.shape != before.shape:
                    tensor.data = before
                elif not torch.equal(tensor, before):
                    tensor.copy_(before)
                module._buffers[name] = tensor


def copy_tensors(inputs: Any) -> Any:
    """Returns nested inputs with a copy of every tensor: a model may write into what it is given."""
    return pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, inputs)


def _buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, tensor) for name, tensor in module._buffers.items() if tensor is not None]
