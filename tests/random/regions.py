"""Regions around a part of a forward, which leave what it computes as it is (autocast up to its rounding)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Region = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]


def _no_grad(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    with torch.no_grad():
        return function(t)


def _grad(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    with torch.set_grad_enabled(True):
        return function(t)


def _nested(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    with torch.enable_grad():
        t = t * 1.0
        with torch.no_grad():
            return function(t)


def _autocast(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return function(t).float()


def _autocast_off(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return function(t)


def _checkpoint(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    return checkpoint(function, t, use_reentrant=False)


REGIONS: dict[str, Region] = {
    "none": lambda function, t: function(t),
    "no_grad": _no_grad,
    "grad": _grad,
    "nested": _nested,
    "autocast": _autocast,
    "autocast off": _autocast_off,
    "checkpoint": _checkpoint,
}
