"""Checks settings and tensors of quantizers and layers in a file: others are damage or attacks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qpass.config.fields import Check, choice, flag, number, optional, several, text, whole
from qpass.config.options import CodeZero
from qpass.errors import ConfigError, DataError
from qpass.nn import QuantizedConv, QuantizedLayer, QuantizedLinear, ResidualFactor
from qpass.quantizers import ByteTable, DynamicFocus, Log2, LogSqrt2, LookUp, Quantizer, ShiftLog2, Tan, Uniform, WeightCodebook
from qpass.quantizers.base import GREATEST_BYTE
from qpass.runtime.arguments import is_number

_PERCENTILES = several(number(lambda p: 0.5 < p <= 1, ""), "numbers in (0.5, 1]")
_BITS = {"bits": whole(2, 8)}
_LOG2 = {**_BITS, "percentiles": _PERCENTILES, "zero_code": flag}
_SETTINGS: dict[type[Quantizer], Mapping[str, Check]] = {
    Uniform: {
        **_BITS,
        **dict.fromkeys(("symmetric", "signed", "free_zero_point"), flag),
        "axis": optional(whole(0, 4)),
        "percentiles": _PERCENTILES,
        "first_code": whole(0, GREATEST_BYTE),
    },
    Log2: _LOG2,
    LogSqrt2: _LOG2,
    ShiftLog2: {**_BITS, "exponent_round": flag},
    Tan: _BITS,
    DynamicFocus: {**_BITS, "code_zero": choice(CodeZero, noun="reading")},
    LookUp: {**_BITS, "formula": text, "integers": flag},
    ByteTable: {**_BITS, "signed": flag},
    WeightCodebook: {**_BITS, "channels": whole(0)},
}
#: Tensors whose values must be positive.
_POSITIVE = ("scale", "log_step", "unit", "eta")
#: Dims of a layer's weight.
_DIMS: dict[type[QuantizedLayer], tuple[int, ...]] = {QuantizedLinear: (2,), ResidualFactor: (2,), QuantizedConv: (3, 4, 5)}


#: What else a convolution's windows have, and the least number of each dim.
WINDOWS = {"stride": 1, "padding": 0, "dilation": 1}
#: Largest number of a window: no image is larger.
_GREATEST_STEP = 2**16


def checked_config(kind: type[Quantizer], config: Any, where: str) -> dict[str, Any]:
    """Returns the arguments of a quantizer's constructor.

    Raises:
        DataError: Naming the one that is missing, unknown, of the wrong type or out of range.
    """
    checks = _SETTINGS[kind]
    if not isinstance(config, dict) or set(config) != set(checks):
        raise DataError("has other settings than its class", where=where, expected=f"{sorted(checks)}")
    try:
        return {name: checks[name](value, f"{where}.{name}") for name, value in config.items()}
    except ConfigError as error:
        raise DataError(error.what, where=error.where, expected=error.expected) from error


def check_tensors(quantizer: Quantizer, fresh: Mapping[str, Tensor], where: str) -> None:
    """Rejects tensors that no fitted quantizer of the class has.

    Args:
        quantizer: Quantizer with the tensors of a file.
        fresh: Its tensors as constructed.
        where: Location for error messages.

    Raises:
        DataError: Naming the tensor.
    """
    own = {**dict(quantizer.named_parameters()), **dict(quantizer.named_buffers())}
    per_channel = getattr(quantizer, "axis", None) is not None
    _require(not getattr(quantizer, "free_zero_point", False), "is True", f"{where}.free_zero_point", "False")
    for name, tensor in own.items():
        place, like = f"{where}.{name}", fresh[name]
        if isinstance(quantizer, WeightCodebook):  # as many scales and tables as its layer has channels
            fits = tensor.dim() == like.dim() and tensor.shape[1:] == like.shape[1:]
        else:
            fits = tensor.dim() <= 1 and (per_channel or tensor.numel() == like.numel())
        found, expected = (f"{tuple(one.shape)} of {one.dtype}" for one in (tensor, like))
        _require(fits and tensor.dtype == like.dtype, f"is {found}", place, expected)
        _require(bool(tensor.isfinite().all()), "holds NaN or infinity", place, "finite numbers")
        if name in _POSITIVE:
            _require(bool((tensor > 0).all()), "holds zeros or negative numbers", place, "numbers above 0")
    if (check := _RELATIONS.get(type(quantizer))) is not None:
        check(quantizer, where)


def check_activation(quantizer: Quantizer, where: str) -> None:
    """Rejects a per-channel activation quantizer: integer products take one scale per tensor.

    Raises:
        DataError: If it is per channel.
    """
    axis = getattr(quantizer, "axis", None)
    _require(axis is None, f"is {axis}", f"{where}.axis", "None: one scale for a tensor")


def check_layer(
    kind: type[QuantizedLayer], weight: Tensor, bias: Tensor | None, quantizer: Quantizer | None, *, frozen: bool, where: str
) -> None:
    """Rejects a layer whose tensors do not match one another.

    Args:
        kind: Its class.
        weight: Its codes, or its float weight.
        bias: Its bias.
        quantizer: Quantizer of its weight.
        frozen: Whether the weight is codes.
        where: Location for error messages.

    Raises:
        DataError: Naming the tensor.
    """
    outputs = weight.shape[0] if weight.dim() else 0
    _require(weight.dim() in _DIMS[kind], f"has a weight of {weight.dim()} dims", where, f"{_DIMS[kind]}")
    _require(bias is None or bias.shape == (outputs,), "has a bias of another size", f"{where}.bias", f"({outputs},)")
    for name, tensor in (("bias", bias), ("weight", None if frozen else weight)):
        if tensor is not None:
            _require(tensor.dtype is torch.float32, f"is {tensor.dtype}", f"{where}.{name}", "torch.float32")
            _require(bool(tensor.isfinite().all()), "holds NaN or infinity", f"{where}.{name}", "finite numbers")
    if quantizer is None:
        _require(not frozen and kind is not ResidualFactor, "has no quantizer", where, "the quantizer of its weight")
        return
    if isinstance(quantizer, WeightCodebook) and kind is not ResidualFactor:
        count = -(-outputs // (quantizer.channels or max(outputs, 1)))
        _require(len(quantizer.scale) == outputs, f"has {len(quantizer.scale)} values", f"{where}.scale", f"{outputs}")
        _require(len(quantizer.table) == count, f"has {len(quantizer.table)} rows", f"{where}.table", f"{count}")
    elif isinstance(quantizer, Uniform):
        _require(quantizer.axis in (0, None), f"is {quantizer.axis}", f"{where}.axis", "0, the output channels")
        for name, tensor in (("scale", quantizer.scale), ("zero_point", quantizer.zero_point)):
            _require(tensor.numel() in (1, outputs), f"has {tensor.numel()} values", f"{where}.{name}", f"1 or {outputs}")
    else:
        raise DataError(f"has a {type(quantizer).__name__}", where=where, expected="Uniform or WeightCodebook")
    if frozen:
        low, high = quantizer.code_min, quantizer.code_max
        _require(weight.dtype == quantizer.code_dtype, f"is {weight.dtype}", f"{where}.codes", f"{quantizer.code_dtype}")
        fits = weight.numel() > 0 and low <= int(weight.min()) and int(weight.max()) <= high
        _require(fits, "holds other codes than its quantizer", f"{where}.codes", f"{low} to {high}")


def checked_windows(data: Mapping[str, Any], weight: Tensor, where: str) -> dict[str, Any]:
    """Returns the windows of a convolution: arguments of its constructor.

    Raises:
        DataError: If the output channels cannot be divided into that many groups, or the windows have
            other dims than the weight, or numbers that no convolution has.
    """
    groups, outputs, dims = data["groups"], len(weight), weight.dim() - 2
    fits = is_number(groups, int) and groups > 0 and outputs % groups == 0
    _require(fits, f"is {str(groups)[:60]}", f"{where}.groups", f"a divisor of {outputs}")
    given = {name: data[name] for name in WINDOWS if name in data}
    for name, numbers in given.items():
        fits = isinstance(numbers, list) and len(numbers) == dims
        fits = fits and all(is_number(n, int) and WINDOWS[name] <= n <= _GREATEST_STEP for n in numbers)
        expected = f"{dims} numbers from {WINDOWS[name]} to {_GREATEST_STEP}"
        _require(fits, f"is {str(numbers)[:60]}", f"{where}.{name}", expected)
    return {"groups": groups, **given}


def _require(holds: bool, what: str, where: str, expected: str) -> None:
    if not holds:
        raise DataError(what, where=where, expected=expected)


def _uniform(quantizer: Any, where: str) -> None:
    zero_point, low, high = quantizer.zero_point, quantizer.code_min, quantizer.code_max
    _require(high <= GREATEST_BYTE, f"has codes up to {high}", where, f"at most {GREATEST_BYTE}")
    _require(bool((zero_point == zero_point.round()).all()), "is no whole number", f"{where}.zero_point", "whole numbers")
    inside = bool(((zero_point >= low) & (zero_point <= high)).all())
    _require(inside, "is no code", f"{where}.zero_point", f"{low} to {high}")


def _dynamic_focus(quantizer: Any, where: str) -> None:
    _require(float(quantizer.b1) < float(quantizer.b2), "ends where it begins", f"{where}.b2", "a number above b1")
    first = int(quantizer.first_code)
    _require(0 <= first <= GREATEST_BYTE - quantizer.steps, f"is {first}", f"{where}.first_code", "codes of one byte")


def _shift_log2(quantizer: Any, where: str) -> None:
    _require(float(quantizer.low) < float(quantizer.high), "ends where it begins", f"{where}.high", "a number above low")


def _tan(quantizer: Any, where: str) -> None:
    low, high = float(quantizer.low), float(quantizer.high)
    fits = -math.pi / 2 < low < high < math.pi / 2
    _require(fits, f"goes from {low} to {high}", where, "an interval inside (-pi/2, pi/2)")


def _byte_table(quantizer: Any, where: str) -> None:
    zero_point, table = float(quantizer.zero_point), quantizer.table
    whole_byte = zero_point.is_integer() and 0 <= zero_point <= GREATEST_BYTE
    _require(whole_byte, f"is {zero_point}", f"{where}.zero_point", f"a whole number from 0 to {GREATEST_BYTE}")
    _require(_ascends(table), "does not ascend", f"{where}.table", "levels in ascending order")
    count, most = table.unique().numel(), 2**quantizer.bits
    _require(count <= most, f"has {count} levels", f"{where}.table", f"at most {most}, those of {quantizer.bits} bits")


def _weight_codebook(quantizer: Any, where: str) -> None:
    _require(_ascends(quantizer.table), "does not ascend", f"{where}.table", "levels in ascending order")


def _ascends(table: Tensor) -> bool:
    return bool((table[..., 1:] >= table[..., :-1]).all())


#: Checks of relations between a quantizer's tensors.
_RELATIONS: dict[type[nn.Module], Callable[[Any, str], None]] = {
    Uniform: _uniform,
    DynamicFocus: _dynamic_focus,
    ShiftLog2: _shift_log2,
    Tan: _tan,
    ByteTable: _byte_table,
    WeightCodebook: _weight_codebook,
}
