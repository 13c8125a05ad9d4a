"""The distance between two outputs of the same structure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from qpass.graph.fill_values import fill_values

#: A channel counts as no smaller than this share of its tensor: one that is always about 0 holds roundings alone.
LEAST_CHANNEL = 1e-3
#: So many values tell the size of a channel; a few may all be small by chance.
CHANNEL_VALUES = 16


def output_error(found: Any, expected: Any, near: float = 0.0, *, channels: bool = False) -> float:
    """Returns the greatest ``tensor_error`` of all values in two nested outputs, infinity if their counts differ."""
    a, b = _values(found), _values(expected)
    if len(a) != len(b):
        return math.inf
    return max((tensor_error(x, y, near, channels=channels) for x, y in zip(a, b, strict=True)), default=0.0)


def same_shapes(found: Any, expected: Any) -> bool:
    """Tells whether two nested outputs have as many values, of the same shapes."""
    return [value.shape for value in _values(found)] == [value.shape for value in _values(expected)]


def has_values(calls: Sequence[Any]) -> bool:
    """Tells whether every output of floats that is not empty has a finite value in one of several calls at least."""
    columns = zip(*map(_values, calls), strict=False)
    floats = [[value for value in column if value.is_floating_point() and value.numel()] for column in columns]
    return all(any(bool(value.isfinite().any()) for value in column) for column in floats if column)


def tensor_error(found: Tensor, expected: Tensor, near: float = 0.0, *, channels: bool = False) -> float:
    """Returns the greatest difference, relative to the root mean square of the expected values without their fills.

    For integers and booleans it is the share of values that differ. It is infinite if shapes differ, or if NaN and infinities
    are not in the same places.

    Args:
        found: What was computed.
        expected: What should have been.
        near: See ``fill_values``.
        channels: Whether each channel, in dim 1 or in the last one, has a size of its own: in a tensor of boxes in pixels and
            of scores, the boxes would hide the scores' errors.
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
    """Returns tensors, and numbers as tensors; other outputs are not compared."""
    leaves = pytree.tree_leaves(outputs)
    return [
        leaf if isinstance(leaf, Tensor) else torch.tensor(leaf) for leaf in leaves if isinstance(leaf, (Tensor, int, float))
    ]
