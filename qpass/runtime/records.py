"""Builds dataclasses from plain JSON data, checking field names and annotated types."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from qpass.errors import DataError
from qpass.runtime.arguments import is_number

T = TypeVar("T")


def from_plain(kind: Any, data: Any, where: str) -> Any:
    """Converts plain data to a value of a type.

    Args:
        kind: A dataclass, a plain type, or a tuple, mapping or union of these, as in annotations.
        data: Output of ``dataclasses.asdict``, also through JSON: tuples may be lists, and mapping keys
            strings.
        where: Location for error messages.

    Raises:
        DataError: Naming the field that has the wrong type, is missing or is unknown.
    """
    if kind is Any:
        return data
    if dataclasses.is_dataclass(kind):
        return record(kind, data, where)  # type: ignore[arg-type]
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _one_of(parts, data, where)
    if origin is tuple:
        return _tuple(parts, data, where)
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(parts, data, where)
    if kind is float and is_number(data, int) and abs(data) < 2**1000:
        return float(data)
    if type(data) is not kind:
        raise DataError(f"is a {type(data).__name__}", where=where, expected=kind.__name__)
    return data


def record(kind: type[T], data: Any, where: str) -> T:
    """Returns a dataclass from a mapping of its fields; fields with defaults may be missing.

    Raises:
        DataError: As ``from_plain``.
    """
    if not isinstance(data, Mapping):
        raise DataError(f"is a {type(data).__name__}", where=where, expected=f"the fields of {kind.__name__}")
    hints, fields = _hints(kind), {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    needed = [name for name, field in fields.items() if field.default is field.default_factory is dataclasses.MISSING]
    unknown, missing = [name for name in data if name not in fields], [name for name in needed if name not in data]
    if unknown or missing:
        raise DataError(f"has the fields {sorted(data)}", where=where, expected=f"{sorted(fields)}")
    return kind(**{name: from_plain(hints[name], value, f"{where}.{name}") for name, value in data.items()})


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _one_of(kinds: tuple[Any, ...], data: Any, where: str) -> Any:
    if data is None and type(None) in kinds:
        return None
    (kind,) = (kind for kind in kinds if kind is not type(None))
    return from_plain(kind, data, where)


def _tuple(kinds: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(data, list | tuple):
        raise DataError(f"is a {type(data).__name__}", where=where, expected="a list")
    each = kinds[:1] * len(data) if kinds[1:] == (...,) else kinds
    if len(each) != len(data):
        raise DataError(f"has {len(data)} entries", where=where, expected=f"{len(each)}")
    return tuple(from_plain(kind, item, f"{where}[{index}]") for index, (kind, item) in enumerate(zip(each, data, strict=True)))


def _mapping(kinds: tuple[Any, ...], data: Any, where: str) -> dict[Any, Any]:
    if not isinstance(data, dict):
        raise DataError(f"is a {type(data).__name__}", where=where, expected="a mapping")
    key_kind, kind = kinds
    if key_kind is int and not all(str(key).isdecimal() for key in data):
        raise DataError(f"has the keys {sorted(data)}", where=where, expected="whole numbers")
    return {key_kind(key): from_plain(kind, value, f"{where}[{key!r}]") for key, value in data.items()}
