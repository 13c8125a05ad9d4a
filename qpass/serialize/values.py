"""Arguments of nodes as JSON and back, each with its exact type: a tuple stays a tuple, NaN stays NaN."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from qpass.errors import DataError

_TORCH_CONSTANTS = {torch.dtype: "dtype", torch.memory_format: "memory_format", torch.layout: "layout"}


def encode(value: Any, where: str) -> Any:
    """Returns JSON data for a value; types that JSON lacks become ``{kind: content}``.

    Raises:
        DataError: Naming ``where``, if the value has a type that files do not support.
    """
    if isinstance(value, bool | int | str | None) and type(value) in (bool, int, str, type(None)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, tuple):
        return {"tuple": [encode(item, where) for item in value]}
    if isinstance(value, list):
        return [encode(item, where) for item in value]
    if isinstance(value, Mapping):
        return {"dict": [[encode(key, where), encode(item, where)] for key, item in value.items()]}
    if isinstance(value, slice | range):
        return {type(value).__name__: [encode(part, where) for part in (value.start, value.stop, value.step)]}
    return _encode_constant(value, where)


def _encode_constant(value: Any, where: str) -> dict[str, Any]:
    if value is Ellipsis:
        return {"ellipsis": None}
    if isinstance(value, complex):
        return {"complex": [encode(value.real, where), encode(value.imag, where)]}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    for kind, name in _TORCH_CONSTANTS.items():
        if isinstance(value, kind):
            return {name: str(value).removeprefix("torch.")}
    raise DataError(f"has a value of type {type(value).__name__}, which no file can hold", where=where)


def decode(value: Any, nodes: Mapping[str, fx.Node], where: str) -> Any:
    """Returns the value that ``encode`` was given.

    Args:
        value: JSON data.
        nodes: Nodes by name.
        where: Location for error messages.

    Raises:
        DataError: If ``encode`` would not write it.
    """
    if isinstance(value, list):
        return [decode(item, nodes, where) for item in value]
    if not isinstance(value, dict):
        return value
    kind, content = next(iter(value.items())) if len(value) == 1 else ("", None)
    if kind == "node" and isinstance(content, str) and content in nodes:
        return nodes[content]
    if kind in _PARTS and isinstance(content, list):
        make, count = _PARTS[kind]
        if count in (None, len(content)):
            return make([decode(part, nodes, where) for part in content])
    if kind == "dict" and isinstance(content, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in content):
        return {_hashable(decode(key, nodes, where), where): decode(item, nodes, where) for key, item in content}
    if kind in _CONSTANTS and isinstance(content, str | None) and content in _CONSTANTS[kind]:
        return _CONSTANTS[kind][content]
    if kind == "device" and isinstance(content, str) and _DEVICE.fullmatch(content):
        return torch.device(content)
    raise DataError(f"has a value {str(value)[:60]}", where=where, expected="what qpass.save writes")


def _hashable(key: Any, where: str) -> Any:
    """Checks the key of a dict: a text or number."""
    if not isinstance(key, str | int | float | bool | None):
        raise DataError(f"has a key of type {type(key).__name__}", where=where, expected="a text or number")
    return key


def _complex(parts: Sequence[Any]) -> complex:
    _all_numbers(parts, "complex")
    return complex(*parts)


def _range(parts: Sequence[Any]) -> range:
    _all_numbers(parts, "range")
    if not all(isinstance(part, int) for part in parts) or parts[2] == 0:
        raise DataError(f"has a range of {str(parts)[:60]}", where="arguments", expected="whole numbers, and a step")
    return range(*parts)


def _all_numbers(parts: Sequence[Any], kind: str) -> None:
    if not all(type(part) in (int, float) for part in parts):
        raise DataError(f"has a {kind} of {str(parts)[:60]}", where="arguments", expected="numbers")


def _named(kind: type) -> dict[str, Any]:
    return {str(value).removeprefix("torch."): value for value in vars(torch).values() if isinstance(value, kind)}


#: Constructors of types with several values, and how many; None is any number.
_PARTS: dict[str, tuple[Any, int | None]] = {
    "tuple": (tuple, None),
    "slice": (lambda parts: slice(*parts), 3),
    "range": (_range, 3),
    "complex": (_complex, 2),
}
#: Constants by kind and name.
_CONSTANTS: dict[str, dict[Any, Any]] = {
    "ellipsis": {None: Ellipsis},
    "float": {text: float(text) for text in ("nan", "inf", "-inf")},
    **{name: _named(kind) for kind, name in _TORCH_CONSTANTS.items()},
}
_DEVICE = re.compile(r"(cpu|cuda|meta|mps|xpu)(:\d{1,3})?")
