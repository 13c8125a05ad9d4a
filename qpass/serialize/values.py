"""Arguments of nodes as JSON and back, each with its exact type: a tuple stays a tuple, NaN stays NaN."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from qpass.errors import DataError

_TORCH_CONSTANTS = {torch.dtype: "dtype", torch.memory_format: "memory_format", torch.layout: "layout"}


def encode(value: Any, where: str) -> Any:
    """Returns JSON data for a value; what JSON has no form for is ``{kind: content}``.

    Raises:
        DataError: Naming ``where``, if the value is of a type that a file does not hold.
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


def decode(value: Any, nodes: Mapping[str, fx.Node]) -> Any:
    """Returns the value that ``encode`` was given.

    Args:
        value: JSON data.
        nodes: Nodes by name.

    Raises:
        DataError: If it names a constant that torch does not have.
    """
    if isinstance(value, list):
        return [decode(item, nodes) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "node":
        return nodes[content]
    if kind in ("tuple", "slice", "range", "complex"):
        parts = [decode(part, nodes) for part in content]
        return tuple(parts) if kind == "tuple" else {"slice": slice, "range": range, "complex": complex}[kind](*parts)
    if kind == "dict":
        return {decode(key, nodes): decode(item, nodes) for key, item in content}
    return _decode_constant(kind, content)


def _decode_constant(kind: str, content: Any) -> Any:
    if kind == "ellipsis":
        return Ellipsis
    if kind == "device":
        return torch.device(content)
    if kind == "float":
        return float(content)
    constant = getattr(torch, content)
    if _TORCH_CONSTANTS.get(type(constant)) != kind:
        raise DataError(f"unknown constant {content!r}", where="load")
    return constant
