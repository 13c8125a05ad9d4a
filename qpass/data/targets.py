"""Labels in a batch: what a trainer needs and the network does not."""

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

#: A target has one of these in its name. So have some inputs (SAM's ``input_labels``): the model tells which it is.
_WORDS = ("label", "target", "start_positions", "end_positions", "return_loss")


def needless_targets(model: nn.Module, kwargs: Mapping[str, Any]) -> set[str]:
    """Returns the inputs named like targets without which the model returns the same, but for a loss.

    Args:
        model: A copy of it runs a few times where there are such names.
        kwargs: A call of it.
    """
    names = {name for name in kwargs if _may_be_left_out(model, name) and any(word in name.lower() for word in _WORDS)}
    if not names:
        return set()
    model = copy.deepcopy(model).eval()
    expected = _outputs(model, kwargs)
    for candidates in (names, *({name} for name in sorted(names) if len(names) > 1)):
        rest = {name: value for name, value in kwargs.items() if name not in candidates}
        found = _outputs(model, rest)
        if found and (expected is None or _within(found, expected)) and not _reads(model, kwargs, candidates, found):
            return candidates
    return set()


def _reads(model: nn.Module, kwargs: Mapping[str, Any], names: set[str], found: Iterable[Tensor]) -> bool:
    """Tells whether the model gives something else for other values: those of the call may be what it takes by default."""
    others = {name: pytree.tree_map(_other, value) if name in names else value for name, value in kwargs.items()}
    outputs = _outputs(model, others)
    return outputs is not None and not _within(found, outputs)


def _other(leaf: Any) -> Any:
    """Returns zeros for a tensor, which are classes and places as well, and ones for zeros."""
    if not isinstance(leaf, Tensor):
        return leaf
    return torch.zeros_like(leaf) if leaf.any() else torch.ones_like(leaf)


def _may_be_left_out(model: nn.Module, name: str) -> bool:
    parameter = forward_parameters(model).get(name)
    return parameter is None or parameter.default is not inspect.Parameter.empty


def _outputs(model: nn.Module, kwargs: Mapping[str, Any]) -> list[Tensor] | None:
    """Returns all tensors that the model gives, or None where it does not run."""
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    copied = pytree.tree_map(lambda leaf: leaf.to(device, copy=True) if isinstance(leaf, Tensor) else leaf, dict(kwargs))
    try:
        with torch.no_grad(), kept_random_state():
            return [leaf for leaf in pytree.tree_leaves(model(**copied)) if isinstance(leaf, Tensor)]
    except Exception:  # whatever a model raises for inputs that it does not take
        return None


def _within(found: Iterable[Tensor], expected: Iterable[Tensor]) -> bool:
    """Tells whether the tensors are among others, in the same order."""
    others = iter(expected)
    return all(any(_equal(tensor, other) for other in others) for tensor in found)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.allclose(a.double(), b.double(), equal_nan=True)
