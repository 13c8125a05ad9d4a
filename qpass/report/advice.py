"""What to do next: the tensors that lose most, each with the rule that gives it more bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from qpass.config import QuantConfig
from qpass.config.presets import preset_fields
from qpass.config.rule_text import Rule, float_rule, merged_rules, tensor_rules
from qpass.config.widening import wider_changes
from qpass.errors import ConfigError
from qpass.report.data import ReportData, TensorRow
from qpass.report.losses import largest_losses

#: Tensors that are advised on.
ADVISED = 5
#: Bit width of the advised rules. At this width already, a layer is left in float.
WIDER = 8


@dataclass(frozen=True)
class Advice:
    """One tensor that loses much.

    Attributes:
        row: The tensor.
        rules: The rules that give it more bits, one for each layer that reads it; empty if the recipe
            in the report cannot be read any more.
        effect: What they change, in words.
    """

    row: TensorRow
    rules: tuple[Rule, ...]
    effect: str

    @property
    def text(self) -> str:
        """The rules as items of a YAML list."""
        return as_yaml(self.rules)


def advice(report: ReportData) -> tuple[list[Advice], bool]:
    """Returns advice on the tensors that lose most, and whether these are measured at the output."""
    rows, measured = largest_losses(report, ADVISED)
    try:
        config = QuantConfig.from_any(report.config)
    except ConfigError:
        return [Advice(row, (), "") for row in rows], measured
    return [_advice(config, report, row) for row in rows], measured


def recipe_text(report: ReportData, advised: Sequence[Advice]) -> str:
    """Returns a recipe file with the report's recipe and all advised rules.

    The rules alone if the recipe is no preset: they belong into its own file.
    """
    rules = merged_rules(rule for each in advised for rule in each.rules)
    head = f"preset: {report.config['name']}\n" if _is_preset(report) else ""
    items = "".join(f"  {line}\n" for line in as_yaml(rules).splitlines())
    return f"{head}rules:\n{items}" if rules else ""


def as_yaml(rules: Sequence[Rule]) -> str:
    """Returns rules as items of a YAML list, one a line."""
    flow = (yaml.safe_dump(rule, sort_keys=False, default_flow_style=True, width=10**6, allow_unicode=True) for rule in rules)
    return "".join(f"- {line}" for line in flow)


def _is_preset(report: ReportData) -> bool:
    try:
        preset = QuantConfig(**preset_fields(report.config["name"]))
        return preset == QuantConfig.from_any(report.config)
    except ConfigError:
        return False


def _advice(config: QuantConfig, report: ReportData, row: TensorRow) -> Advice:
    changes = [_change(config, row, path, role) for path, role in row.readers]
    rules: list[Rule] = []
    for (path, role), change in zip(row.readers, changes, strict=True):
        rules += [float_rule(path)] if change is None else tensor_rules([(path, role)], change)
    if None in changes:
        layers = "the layer" if len(rules) == 1 else f"{len(rules)} layers"
        return Advice(row, tuple(rules), f"leaves {layers} in float")
    shared = _also_changed(report, row)
    return Advice(row, tuple(rules), f"{row.bits} to {WIDER} bits" + (f", {' and '.join(shared)} too" if shared else ""))


def _change(config: QuantConfig, row: TensorRow, path: str, role: str) -> dict[str, Any] | None:
    """Returns the fields that a rule changes, or None to leave the layer in float."""
    if row.bits >= WIDER:
        return None
    try:
        spec = config.resolve(path, role)
        change = None if spec is None else wider_changes(role, spec).get(WIDER)
        if change is not None:
            for rule in tensor_rules([(path, role)], change):
                config.with_rules(rule).resolve(path, role)
    except ConfigError:
        return None
    return change


def _also_changed(report: ReportData, row: TensorRow) -> list[str]:
    """Names the other tensors that have the same layer and role, and so get the bits too."""
    mine = set(row.readers)
    return list(
        dict.fromkeys(
            other.part
            for other in report.tensors
            if other.name != row.name and other.bits < WIDER and mine & set(other.readers)
        )
    )
