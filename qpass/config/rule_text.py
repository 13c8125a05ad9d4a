"""Rules for single layers, as plain data for a recipe."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping
from typing import Any

Rule = dict[str, Any]


def tensor_rules(members: Iterable[tuple[str, str]], change: Mapping[str, Any]) -> list[Rule]:
    """Returns the rules that make one change to tensors.

    Args:
        members: (module path, role) of each.
        change: The changed fields of its spec.
    """
    return [{glob.escape(path): {role: dict(change)}} for path, role in members]


def float_rule(path: str, role: str | None = None) -> Rule:
    """Returns the rule that leaves a layer in float, or one of its tensors."""
    return {glob.escape(path): None if role is None else {role: None}}


def merged_rules(rules: Iterable[Rule]) -> list[Rule]:
    """Returns an equal list with one rule for each pattern.

    Later rules win, tensor by tensor. A whole layer in float stays so.
    """
    merged: Rule = {}
    for rule in rules:
        for pattern, change in rule.items():
            whole = change is None or merged.get(pattern, {}) is None
            merged[pattern] = None if whole else {**merged.get(pattern, {}), **change}
    return [{pattern: change} for pattern, change in merged.items()]
