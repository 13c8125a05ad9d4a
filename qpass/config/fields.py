"""Field checks of configs: each returns a plain Python value or raises a ConfigError."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from qpass.errors import ConfigError, nearest
from qpass.runtime.arguments import is_number

#: Called with a value and the name of its field.
Check = Callable[[Any, str], Any]

#: Upper bound of counts, so that a typo cannot create a huge tensor.
LARGEST_COUNT = 2**31 - 1


def check_fields(config: object, checks: Mapping[str, Check], prefix: str = "") -> None:
    """Checks fields of a frozen dataclass and replaces each by the checked value.

    Raises:
        ConfigError: Names the first field with an invalid value, prefixed by ``prefix``.
    """
    for name, check in checks.items():
        object.__setattr__(config, name, check(getattr(config, name), prefix + name))


def refuse(value: object, where: str, expected: str = "", hint: str = "") -> ConfigError:
    """Returns the error for an invalid value."""
    text = repr(value)
    return ConfigError(f"got {text if len(text) <= 100 else text[:100] + '...'}", where=where, expected=expected, hint=hint)


def whole(least: int, greatest: int = LARGEST_COUNT, *, expected: str = "") -> Check:
    """Accepts an int from ``least`` to ``greatest``. Rejects bools and floats such as 4.0."""
    expected = expected or f"a whole number from {least} to {greatest}"

    def check(value: Any, where: str) -> int:
        if not is_number(value, int) or not least <= value <= greatest:
            raise refuse(value, where, expected)
        return int(value)

    return check


def number(fits: Callable[[float], bool], expected: str) -> Check:
    """Accepts a finite int or float for which ``fits`` is true. Rejects strings, even numeric ones."""

    def check(value: Any, where: str) -> float:
        if isinstance(value, str) and _reads_as_number(value):
            raise refuse(value, where, expected, hint="this is text: YAML reads 1e-3 as text and 1.0e-3 as a number")
        if not is_number(value, int, float) or not _finite(value) or not fits(value):
            raise refuse(value, where, expected)
        return int(value) if isinstance(value, int) else float(value)

    return check


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond the range of floats
        return False


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def flag(value: Any, where: str) -> bool:
    """Accepts only True and False, not other truthy or falsy values."""
    if not isinstance(value, bool):
        raise refuse(value, where, "true or false")
    return value


def text(value: Any, where: str) -> str:
    """Accepts a string that UTF-8 can encode."""
    try:
        if isinstance(value, str):
            value.encode()
            return str.__str__(value)
    except UnicodeEncodeError:
        pass
    raise refuse(value, where, "a text")


def choice(options: Iterable[str], *, noun: str = "", expected: str = "") -> Check:
    """Accepts one of ``options``, such as an enum of strings; returns a plain string."""
    names = [str.__str__(option) for option in options]

    def check(value: Any, where: str) -> str:
        if not isinstance(value, str) or value not in names:
            error = refuse(value, where, expected, hint=nearest(str(value), names))
            raise error if not noun else ConfigError(f"unknown {noun} {value!r}", where=where, hint=error.hint)
        return str.__str__(value)

    return check


def optional(check: Check) -> Check:
    """Accepts None and whatever ``check`` accepts."""

    def check_optional(value: Any, where: str) -> Any:
        try:
            return None if value is None else check(value, where)
        except ConfigError as error:
            expected = f"{error.expected} or None" if error.expected else ""
            raise ConfigError(error.what, where=where, expected=expected, hint=error.hint) from None

    return check_optional


def several(check: Check, expected: str, *, least: int = 1) -> Check:
    """Accepts a list or tuple of at least ``least`` values that all pass ``check``; returns a tuple."""

    def check_all(value: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or len(value) < least:
            raise refuse(value, where, expected)
        try:
            return tuple(check(item, where) for item in value)
        except ConfigError:
            raise refuse(value, where, expected) from None

    return check_all


#: Accepts a number of things, of which there is at least one.
at_least_one = whole(1, expected="a whole number above 0")


def mapping_of_texts(value: Any, where: str) -> dict[str, str]:
    """Accepts a mapping of texts to texts, which may be empty."""
    if not isinstance(value, Mapping):
        raise refuse(value, where, "a mapping of texts")
    return {text(key, where): text(item, f"{where}.{key}") for key, item in value.items()}


def instance(kind: type, name: str) -> Check:
    """Accepts an instance of ``kind``, called ``name`` in messages."""

    def check(value: Any, where: str) -> Any:
        if not isinstance(value, kind):
            raise refuse(value, where, name)
        return value

    return check
