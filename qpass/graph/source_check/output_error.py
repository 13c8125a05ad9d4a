"""The distance between two outputs of the same structure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from qpass.graph.fill_values import fill_values, great_values

#: Least magnitude of a channel, relative to its tensor's. Below it are only rounding errors.
LEAST_CHANNEL = 1e-3
#: Fewest values that determine a channel's magnitude; fewer may all be small by chance.
CHANNEL_VALUES = 16


def output_error(found: Any, expected: Any, near: float = 0.0, *, channels: bool = False, filled: Sequence[bool] = ()) -> float:
    """Returns the largest ``tensor_error`` in two nested outputs, or infinity if their counts differ.

    Args:
        found: Computed outputs.
        expected: Expected outputs.
        near: See ``fill_values``.
        channels: See ``tensor_error``.
        filled: For each tensor of the outputs, whether a mask fills values into it; empty for none.
    """
    a, b = _values(found), _values(expected)
    if len(a) != len(b):
        return math.inf
    flags = iter(filled)
    added = [isinstance(leaf, Tensor) and next(flags, False) for leaf in _leaves(expected)]
    errors = (tensor_error(x, y, near, channels=channels, added=flag) for x, y, flag in zip(a, b, added, strict=True))
    return max(errors, default=0.0)


def same_shapes(found: Any, expected: Any) -> bool:
    """Returns whether two nested outputs have the same number of values, with the same shapes."""
    return [value.shape for value in _values(found)] == [value.shape for value in _values(expected)]


def has_values(calls: Sequence[Any]) -> bool:
    """Returns whether every non-empty float output has a finite value in at least one call."""
    columns = zip(*map(_values, calls), strict=False)
    floats = [[value for value in column if value.is_floating_point() and value.numel()] for column in columns]
    return all(any(bool(value.isfinite().any()) for value in column) for column in floats if column)


def tensor_error(found: Tensor, expected: Tensor, near: float = 0.0, *, channels: bool = False, added: bool = False) -> float:
    """Returns the largest difference, relative to the root mean square of the expected non-fill values.

    For integers and booleans, it is the share of values that differ. It is infinite if the shapes
    differ, or if NaN and infinities are not in the same places.

    Args:
        found: Computed values.
        expected: Expected values.
        near: See ``fill_values``.
        channels: Whether to also scale each channel, of dim 1 and of the last dim, by its own
            magnitude. In a tensor of boxes in pixels and scores, boxes would hide errors of scores.
        added: Whether a mask may have been added to some values. Those without it are then also
            compared by themselves.
    """
    if found.shape != expected.shape:
        return math.inf
    if not expected.numel():
        return 0.0
    if not (expected.is_floating_point() or expected.is_complex()):
        return (found.to(expected) != expected).double().mean().item()
    found, expected = _double(found), _double(expected)
    finite, infinite = expected.isfinite(), expected.isinf()
    if not torch.equal(found.isfinite(), finite) or not torch.equal(found[infinite], expected[infinite]):
        return math.inf
    compared = finite & ~fill_values(found, expected, near)
    kinds = [compared, compared & ~great_values(expected, added=True)] if added else [compared]
    return max(_relative_error(found, expected, kind, channels=channels) for kind in kinds)


def _relative_error(found: Tensor, expected: Tensor, compared: Tensor, *, channels: bool) -> float:
    """Returns the largest difference of the compared values, relative to their root mean square."""
    if not compared.any():
        return 0.0
    squares = torch.where(compared, expected.square(), 0.0)
    difference = torch.where(compared, (found - expected).abs(), 0.0)
    size = (squares.sum() / compared.sum()).sqrt().item() or 1.0
    error = difference.max().item() / size
    for dim in {1, expected.dim() - 1} if channels and expected.dim() > 1 else ():
        others = [other for other in range(expected.dim()) if other != dim]
        counts = compared.sum(others)
        sizes = (squares.sum(others) / counts.clamp(min=1)).sqrt().clamp(min=LEAST_CHANNEL * size)
        sizes = torch.where(counts < CHANNEL_VALUES, size, sizes)
        error = max(error, (difference.amax(others) / sizes).max().item())
    return error


def _double(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return torch.view_as_real(tensor.to(torch.complex128)) if tensor.is_complex() else tensor.double()


def _values(outputs: Any) -> list[Tensor]:
    """Returns the tensors, and the numbers as tensors."""
    return [leaf if isinstance(leaf, Tensor) else torch.tensor(leaf) for leaf in _leaves(outputs)]


def _leaves(outputs: Any) -> list[Any]:
    """Returns the tensors and numbers; other outputs are not compared."""
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, (Tensor, int, float))]
