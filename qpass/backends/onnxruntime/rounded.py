"""Rounding in a file by class of quantizer: the value before QuantizeLinear, its step and zero point."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qpass.quantizers import ByteTable, DynamicFocus, Log2, LogSqrt2, LookUp, Quantizer, ShiftLog2, Tan, Uniform
from qpass.quantizers.base import LEAST_FLOAT

#: ln of the smallest normal float32. A float32 Softmax has no accurate values below it; a
#: LogSoftmax has.
_LEAST_LOG = -126 * math.log(2)


@dataclass(frozen=True)
class Rounding:
    """Codes are round(value(x) / step) + zero_point, clipped to the quantizer's codes.

    Attributes:
        value: The value that is divided by the step; values that give the lowest code anyway may be
            cut off.
        step: Step of the codes.
        zero_point: Zero point of the codes, in torch's form.
    """

    value: Callable[[Tensor], Tensor]
    step: np.float32
    zero_point: int


def rounding_of(quantizer: Quantizer) -> Rounding | None:
    """Returns the rounding of a quantizer's lowering, or None if it has an axis or an unknown class."""
    make = _ROUNDINGS.get(type(quantizer))
    return None if make is None else make(quantizer)


def _uniform(quantizer: Uniform) -> Rounding | None:
    return None if quantizer.axis is not None else _equal_steps(quantizer)


def _equal_steps(quantizer: Uniform | ByteTable) -> Rounding:
    return Rounding(lambda x: x, _number(quantizer.scale), int(quantizer.zero_point))


def _dynamic_focus(quantizer: DynamicFocus) -> Rounding:
    return Rounding(lambda x: x - quantizer.offset.to(x.dtype), _number(quantizer.scale), 0)


def _log(quantizer: Log2) -> Rounding:
    value = lambda x: _log_of(x) - quantizer.scale.to(x.dtype).log()  # noqa: E731
    return Rounding(value, np.float32(quantizer.log_step), quantizer.code_max)


def _look_up(quantizer: LookUp) -> Rounding:
    return Rounding(_log_of, _number(quantizer.log_step), quantizer.code_max)


def _shift_log2(quantizer: ShiftLog2) -> Rounding:
    low = quantizer.low * math.log(2)
    value = lambda x: (x.clamp(min=0) + quantizer.eta.to(x.dtype)).log() - low.to(x.dtype)  # noqa: E731
    return Rounding(value, _number(quantizer.step * math.log(2)), 0)


def _tan(quantizer: Tan) -> Rounding:
    def value(x: Tensor) -> Tensor:
        slope, low, high = (number.to(x.dtype) for number in (quantizer.slope, quantizer.low, quantizer.high))
        return (x * slope + low).clamp(low.item(), high.item()).tan() - low.tan()

    return Rounding(value, _number(quantizer.step), 0)


_ROUNDINGS: dict[type[Quantizer], Callable[[Any], Rounding | None]] = {
    Uniform: _uniform,
    ByteTable: _equal_steps,
    DynamicFocus: _dynamic_focus,
    Log2: _log,
    LogSqrt2: _log,
    LookUp: _look_up,
    ShiftLog2: _shift_log2,
    Tan: _tan,
}


def cut_off(quantizer: Quantizer, rounding: Rounding, value: Tensor) -> Tensor:
    """Clamps a value of ``rounding`` one step below the lowest code, where codes no longer change."""
    if not isinstance(quantizer, (Log2, LookUp)):
        return value
    least = float(rounding.step) * (quantizer.code_min - rounding.zero_point - 1)
    return value.clamp(min=max(least, _LEAST_LOG))


def _log_of(x: Tensor) -> Tensor:
    return x.clamp(min=LEAST_FLOAT).log()


def _number(value: Tensor) -> np.float32:
    return np.float32(value.detach().to(torch.float32).item())
