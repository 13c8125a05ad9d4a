"""Finds training targets in a batch that do not affect the network's output."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from qpass.data.structure import forward_parameters
from qpass.runtime.torch_modes import kept_random_state

#: A target's name contains one of these. So do some real inputs (SAM's ``input_labels``): running
#: the model tells them apart.
_WORDS = ("label", "target", "start_positions", "end_positions", "return_loss")


def needless_targets(model: nn.Module, kwargs: Mapping[str, Any]) -> set[str]:
    """Returns the inputs named like targets that affect nothing but the loss.

    Args:
        model: The model; a copy runs a few times if there are such names.
        kwargs: Keyword arguments of a call.
    """
    names = {name for name in kwargs if _may_be_left_out(model, name) and any(word in name.lower() for word in _WORDS)}
    if not names:
        return set()
    model = copy.deepcopy(model).eval().requires_grad_(False)
    expected = _outputs(model, kwargs)
    for candidates in (names, *({name} for name in sorted(names) if len(names) > 1)):
        rest = {name: value for name, value in kwargs.items() if name not in candidates}
        found = _outputs(model, rest)
        if found and (expected is None or _within(found, expected)) and not _reads(model, kwargs, candidates, found):
            return candidates
    return set()


def _reads(model: nn.Module, kwargs: Mapping[str, Any], names: set[str], found: Iterable[Tensor]) -> bool:
    """Returns whether other values change the output; the call's values may equal the defaults."""
    others = {name: pytree.tree_map(_other, value) if name in names else value for name, value in kwargs.items()}
    outputs = _outputs(model, others)
    return outputs is not None and not _within(found, outputs)


def _other(leaf: Any) -> Any:
    """Returns zeros for a tensor (valid classes and positions too), or ones if it is all zeros."""
    if not isinstance(leaf, Tensor):
        return leaf
    return torch.zeros_like(leaf) if leaf.any() else torch.ones_like(leaf)


def _may_be_left_out(model: nn.Module, name: str) -> bool:
    parameter = forward_parameters(model).get(name)
    return parameter is None or parameter.default is not inspect.Parameter.empty


def _outputs(model: nn.Module, kwargs: Mapping[str, Any]) -> list[Tensor] | None:
    """Returns all output tensors of the model, or None if it fails."""
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    copied = pytree.tree_map(lambda leaf: leaf.to(device, copy=True) if isinstance(leaf, Tensor) else leaf, dict(kwargs))
    try:
        with torch.no_grad(), kept_random_state():
            return [leaf for leaf in pytree.tree_leaves(model(**copied)) if isinstance(leaf, Tensor)]
    except Exception:  # a model may raise anything for inputs that it does not accept
        return None


def _within(found: Iterable[Tensor], expected: Iterable[Tensor]) -> bool:
    """Returns whether ``found`` is a subsequence of ``expected``."""
    others = iter(expected)
    return all(any(_equal(tensor, other) for other in others) for tensor in found)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.allclose(a.double(), b.double(), equal_nan=True)
