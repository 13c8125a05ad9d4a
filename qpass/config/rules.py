"""Config rules: ordered pairs of a glob on module paths and a change to the matching specs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from qpass.config.fields import refuse, text
from qpass.config.spec import TENSOR_ROLES, QuantSpec
from qpass.errors import ConfigError, check_keys

#: Change by role: QuantSpec fields, or None for float. A bare None leaves the whole layer in float.
Change = Mapping[str, Mapping[str, Any] | None] | None
Rules = tuple[tuple[str, Change], ...]

_EXPECTED = "a mapping {pattern: change}, or a list of such"
_FIELDS = tuple(field.name for field in dataclasses.fields(QuantSpec))


def as_rules(given: Any) -> Rules:
    """Returns ordered pairs, as plain copied data, from a mapping or a list of mappings or pairs.

    Raises:
        ConfigError: If it is none of these, a pattern is not a string, or a change names an unknown
            role or QuantSpec field.
    """
    if given is None:
        return ()
    rules = [given] if isinstance(given, Mapping) else given
    if not isinstance(rules, list | tuple):
        raise refuse(given, "rules", _EXPECTED)
    return tuple((_pattern(pattern), _change(change, pattern)) for rule in rules for pattern, change in _pairs(rule))


def _pairs(rule: Any) -> list[tuple[Any, Any]]:
    if isinstance(rule, Mapping):
        return list(rule.items())
    if isinstance(rule, list | tuple) and len(rule) == 2:
        return [(rule[0], rule[1])]
    raise refuse(rule, "rules", _EXPECTED, hint="{head: null} leaves the layer 'head' in float")


def _pattern(pattern: Any) -> str:
    if not isinstance(pattern, str):
        raise refuse(pattern, "rules", "a pattern on module paths", hint="put it in quotes")
    return text(pattern, "rules")


def _change(change: Any, pattern: str) -> Change:
    where = f"rule {pattern!r}"
    if change is None:
        return None
    if not isinstance(change, Mapping):
        raise refuse(change, where, f"a mapping of {TENSOR_ROLES} or null")
    check_keys(change, TENSOR_ROLES, where)
    return {role: _update(update, f"{where}, {role}") for role, update in change.items()}


def _update(update: Any, where: str) -> dict[str, Any] | None:
    if update is None:
        return None
    if isinstance(update, QuantSpec):
        return dataclasses.asdict(update)
    if not isinstance(update, Mapping):
        raise refuse(update, where, "a mapping such as {bits: 8}, or null for float")
    check_keys(update, _FIELDS, where)
    return {name: _plain(value) for name, value in update.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return str.__str__(value)  # not a member of an enum, which YAML cannot write
    return tuple(value) if isinstance(value, list) else value


def changed_spec(base: QuantSpec, change: Any, where: str) -> QuantSpec:
    """Returns a spec with these fields replaced; ``change`` may be a whole spec.

    Raises:
        ConfigError: Names ``where`` and the field.
    """
    update = _update(change, where)
    if update is None:
        raise refuse(None, where, "a mapping such as {bits: 8}")
    try:
        return dataclasses.replace(base, **update)
    except ConfigError as error:
        raise ConfigError(error.what, where=f"{where}.{error.where}", expected=error.expected, hint=error.hint) from error


def apply_rules(rules: Rules, base: QuantSpec, role: str, matches: Callable[[str], bool]) -> tuple[QuantSpec | None, str]:
    """Returns a tensor's spec after all rules whose pattern ``matches``, and the last such rule's name.

    A spec of None means float. If no rule matches, the name is the role.
    """
    spec: QuantSpec | None = base
    where = role
    for pattern, change in rules:
        if not matches(pattern) or (change is not None and role not in change):
            continue
        where = f"rule {pattern!r}, {role}"
        update = None if change is None else change[role]
        spec = None if update is None else changed_spec(spec or base, update, where)
    return spec, where
