"""What was tried, and what was chosen: as a table and as a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from torch import fx

from qpass.accuracy.drop import Drop, Scores, drop_of
from qpass.config import QuantConfig
from qpass.config.presets import preset_fields
from qpass.errors import ConfigError
from qpass.runtime.notebook import ShownAsText


@dataclass(frozen=True)
class Trial:
    """One candidate that was exported and evaluated in onnxruntime.

    Attributes:
        label: What it is.
        config: Its recipe, as plain data.
        size: Bytes of its file.
        scores: What the metric returned.
        speedup: Time of one run of the float file divided by that of this one, on one thread; None if
            not measured.
    """

    label: str
    config: Mapping[str, Any]
    size: int
    scores: Scores
    speedup: float | None = None


@dataclass(frozen=True, repr=False)
class AccuracyResult(ShownAsText):
    """Result of ``quantize_to_accuracy``. ``print`` it, or read its fields.

    Attributes:
        graph: The quantized network: export it, save it, verify it.
        config: Its recipe.
        drop: How far it is below the float network.
        max_drop: How far it may be.
        float_scores: What the metric returned for the float network.
        trials: Every candidate that was tried, in the order of the candidates.
    """

    graph: fx.GraphModule
    config: QuantConfig
    drop: Drop
    max_drop: float
    float_scores: Scores
    trials: tuple[Trial, ...]

    def recipe_yaml(self) -> str:
        """Returns the recipe as YAML, from which ``quantize_graph`` makes the same network."""
        return recipe_yaml(self.config)

    def __repr__(self) -> str:
        return f"<AccuracyResult: {self.config.name}, drop {self.drop}; {len(self.trials)} candidates tried>"

    def __str__(self) -> str:
        chosen = self.config.to_dict()
        return "\n".join(
            [
                trial_table(self.trials, self.float_scores, self.max_drop, chosen),
                NOT_A_TEST_SET,
                "recipe:",
                *(f"  {line}" for line in self.recipe_yaml().splitlines()),
            ]
        )


#: What every result says.
NOT_A_TEST_SET = (
    "The evaluation samples chose this file, so its score on them is not an unbiased estimate: measure it on others."
)


def trial_table(trials: Sequence[Trial], base: Scores, max_drop: float, chosen: Mapping[str, Any] | None = None) -> str:
    """Returns a table of the trials; the chosen one is marked."""
    paired = base.by_sample
    bound = f"at most {max_drop:g} with 95 % confidence" if paired else f"at most {max_drop:g}, without a confidence"
    lines = [
        f"float: {base.mean:.2f}; a drop of {bound} is asked for",
        f"  {'candidate':<46} {'MB':>8} {'speed':>6} {'drop':>15} {'at most':>8}",
    ]
    for trial in trials:
        drop = drop_of(trial.scores, base)
        error = f"{drop.value:.2f}" + ("" if drop.error is None else f" ± {drop.error:.2f}")
        limit = f"{drop.limit:.2f}" if paired else "-"
        speed = "" if trial.speedup is None else f"{trial.speedup:.2f}x"
        mark = "*" if trial.config == chosen else " "
        lines.append(f"{mark} {trial.label:<46} {trial.size / 1e6:>8.3f} {speed:>6} {error:>15} {limit:>8}")
    return "\n".join(lines)


def recipe_yaml(config: QuantConfig) -> str:
    """Returns a config as short YAML: a preset's name and rules, where that says it all."""
    return yaml.safe_dump(_short(config), sort_keys=False, default_flow_style=None, width=120)


def _short(config: QuantConfig) -> dict[str, Any]:
    data = config.to_dict()
    try:
        preset = QuantConfig(**preset_fields(config.name))
    except ConfigError:
        return data
    if {**data, "rules": []} != preset.to_dict():
        return data
    return {"preset": config.name, **({"rules": data["rules"]} if data["rules"] else {})}
