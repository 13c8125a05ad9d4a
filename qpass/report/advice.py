"""What to do next: the tensors that lose most, each with the rule that gives it more bits."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from qpass.config import QuantConfig, QuantSpec
from qpass.config.options import QuantizerName
from qpass.config.presets import preset_fields
from qpass.errors import ConfigError
from qpass.report.data import ReportData, TensorRow
from qpass.report.losses import largest_losses

#: Tensors that are advised on.
ADVISED = 5
#: Bit width of the advised rules. At this width already, a layer is left in float.
WIDER = 8

Rule = dict[str, Any]


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
    # Later rules win, so that a layer in float comes last.
    rules = sorted((rule for each in advised for rule in each.rules), key=lambda rule: None in rule.values())
    unique = list({repr(rule): rule for rule in rules}.values())
    head = f"preset: {report.config['name']}\n" if _is_preset(report) else ""
    items = "".join(f"  {line}\n" for line in as_yaml(unique).splitlines())
    return f"{head}rules:\n{items}" if unique else ""


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
    rules, kept_float = [], False
    for path, role in row.readers:
        change = _change(config, row, path, role)
        kept_float |= change is None
        rules.append({glob.escape(path): None if change is None else {role: change}})
    layers = "the layer" if len(rules) == 1 else f"{len(rules)} layers"
    effect = f"leaves {layers} in float" if kept_float else f"{row.bits} to {WIDER} bits"
    shared = [] if kept_float else _also_changed(report, row)
    return Advice(row, tuple(rules), effect + (f", {' and '.join(shared)} too" if shared else ""))


def _change(config: QuantConfig, row: TensorRow, path: str, role: str) -> dict[str, Any] | None:
    """Returns the fields that a rule changes, or None to leave the layer in float."""
    if row.bits >= WIDER:
        return None
    try:
        change = _wider(config.resolve(path, role), role)
        config.with_rules({glob.escape(path): {role: change}}).resolve(path, role)
    except ConfigError:
        return None
    return change


def _wider(spec: QuantSpec | None, role: str) -> dict[str, Any]:
    change: dict[str, Any] = {"bits": WIDER}
    if spec is None:
        return change
    if role == "post_softmax" and spec.quantizer != QuantizerName.UNIFORM:
        change |= {"quantizer": QuantizerName.UNIFORM.value, "tabulated": False}  # an integer product reads equal steps
    if role == "weight" and spec.quantizer == QuantizerName.UNIFORM and not spec.symmetric:
        change["symmetric"] = True  # a zero point gains nothing at 8 bits
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
