"""The recipes of the accuracy tables by name, and the parts of them one by one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import provenance

from qpass.config import SOFTMAX_PERCENTILES, QuantConfig
from qpass.config.options import LearningOrder, Schedule
from qpass.config.presets import SCALE_LEARNING_RATE
from qpass.config.reconstruction import ReconstructionConfig

FLOAT = "float"
#: Closed form: ours, then round to nearest from least to greatest, then RepQ-ViT.
CLOSED_FORM = (
    "w8a8", "w6a6", "w4a8", "mixed-w4a5", "w4a4", "mixed-w3a4", "w3a3",
    "codebook-w4a8", "codebook-w3a8", "codebook-w2a8", "codebook-w4a4", "codebook-w3a3",
    "naive-w8a8", "naive-w6a6", "naive-w4a8", "naive-w4a4", "naive-w3a3",
    "repq-vit-w8a8", "repq-vit-w6a6", "repq-vit-w4a8", "repq-vit-w4a4", "repq-vit-w3a3",
)  # fmt: skip
#: Recipes that learn: polished, then AIQViT with learned scales, then the published methods.
LEARNED = (
    "w4a8, polish quick", "mixed-w4a5, polish quick", "w4a4, polish quick", "mixed-w3a4, polish quick", "w3a3, polish quick",
    "codebook-w4a4, polish quick", "codebook-w3a3, polish quick",
    "aiqvit-lsq-w6a6", "aiqvit-lsq-w4a8", "aiqvit-lsq-w4a4", "aiqvit-lsq-w3a3",
    "ias-vit-w6a6", "ias-vit-w4a8", "ias-vit-w4a4", "ias-vit-w3a3",
    "dopq-vit-w6a6", "dopq-vit-w4a8", "dopq-vit-w4a4", "dopq-vit-w3a3",
    "aiqvit-w6a6", "aiqvit-w4a8", "aiqvit-w4a4", "aiqvit-w3a3",
)  # fmt: skip
#: Published methods at the papers' full length, on DeiT-T alone: hours on a CPU, see gpu.py.
FULL = tuple(f"{method}-{width}, full schedule" for width in ("w4a4", "w3a3") for method in ("aiqvit", "ias-vit", "dopq-vit"))
#: Weights that keep a residual branch, on DeiT-T alone.
RESIDUAL = tuple(f"{name}, residual rank {rank}" for name in ("w3a8", "w2a8", "w3a3") for rank in (16, 32))
#: What is run with several seeds on DeiT-T: the recipes that are compared with each other.
COMPARED = (
    "w4a8", "mixed-w4a5", "w4a4", "mixed-w3a4", "w3a3", "codebook-w4a8", "codebook-w3a8", "codebook-w4a4", "codebook-w3a3",
    "repq-vit-w4a4",
)  # fmt: skip
SEEDS = (0, 1, 2)
#: Networks whose rows take minutes, and the closed-form recipes that are left out there.
HEAVY = ("ngswin", "dinov2", "modelnet40", "modelnet40-perturbed")
_NOT_ON_HEAVY = ("w6a6", "codebook-w2a8", "naive-w6a6", "naive-w4a8", "naive-w3a3", "repq-vit-w6a6")

#: Switches off what the recipes ``wXaY`` do beyond folding and the search of ranges.
PLAIN: dict[str, Any] = {
    "rotate_heads": False,
    "rotate_residual": False,
    "weight_rounding": "nearest",
    "compensate_activations": False,
    "token_weights": "equal",
    "post_softmax": {
        "quantizer": "uniform", "tabulated": False, "percentiles": SOFTMAX_PERCENTILES, "criterion": "output",
    },
    "budget": None,
}  # fmt: skip


def settings_of(name: str) -> Any:
    """Returns what ``QuantConfig.from_any`` takes for a recipe of the main tables."""
    if match := re.fullmatch(r"naive-(w\da(\d))", name):
        return naive(match[1], int(match[2]))
    preset, _, rest = name.partition(", ")
    if rest == "full schedule":
        return {"preset": preset, "schedule": "full"}
    if rest.startswith("polish "):
        return {"preset": preset, "polish": rest.removeprefix("polish ")}
    if rest.startswith("residual rank "):
        rank = int(rest.removeprefix("residual rank "))
        return {"preset": preset, "weight_rounding": "nearest", "weight": {"residual_rank": rank}, "rotate_residual": False}
    return name


def naive(width: str, bits: int) -> dict[str, Any]:
    """Returns round to nearest between the least and the greatest value."""
    plain = {"bits": bits, "quantizer": "uniform", "tabulated": False, "percentiles": (1.0,), "criterion": "tensor"}
    changes = {
        "activation": plain,
        "post_softmax": plain,
        "network_input": plain | {"bits": 8},
        "weight": {"percentiles": (1.0,)},
    }
    return {"preset": width, "name": f"naive-{width}", "fold_layer_norm": None, "calibrate_on": "float", **PLAIN, **changes}


@dataclass(frozen=True)
class Recipe:
    """A row of a table.

    Attributes:
        name: What the row is stored under.
        settings: For ``QuantConfig.from_any``; None for float.
        seeds: Those that the table asks for.
        images: Calibration samples; None takes what the task says.
    """

    name: str
    settings: Any = None
    seeds: tuple[int, ...] = (0,)
    images: int | None = None

    @property
    def config(self) -> QuantConfig:
        """The recipe; not for float."""
        return QuantConfig.from_any(self.settings)

    @property
    def learns(self) -> bool:
        return self.settings is not None and self.config.reconstruction is not None

    @property
    def digest(self) -> str:
        """Digest of all settings but the name. What is off does not count: a new option changes none."""
        return FLOAT if self.settings is None else provenance.digest([_what_is_on(self.config), self.images])

    @property
    def steps(self) -> int:
        """Gradient steps for each block."""
        return _steps(self.config.reconstruction) if self.learns else 0

    @property
    def schedule(self) -> str:
        """How long the recipe learns, of how many steps in the paper; empty if it does not."""
        if not self.learns:
            return ""
        if isinstance(self.settings, Mapping) and "polish" in self.settings:
            return f"polish quick, {self.steps} steps"
        preset = self.settings if isinstance(self.settings, str) else self.settings["preset"]
        quick, full = (
            _steps(QuantConfig.from_any({"preset": preset, "schedule": name}).reconstruction)
            for name in (Schedule.QUICK, Schedule.FULL)
        )
        if self.steps == full:
            return f"full, {full:,} steps"
        return f"{'quick' if self.steps == quick else 'short'}, {self.steps:,} of {full:,} steps"


def _what_is_on(config: QuantConfig) -> Any:
    return _without_off(json.loads(json.dumps(asdict(replace(config, name="")), default=str)))


def _without_off(value: Any) -> Any:
    """Drops entries of mappings that are None, False or empty."""
    if not isinstance(value, dict):
        return value
    return {
        name: _without_off(entry) for name, entry in value.items() if entry is not None and entry not in (False, "", [], {})
    }


def _steps(learning: ReconstructionConfig | None) -> int:
    if learning is None:
        return 0
    return learning.steps_of_a_block * (2 if learning.order == LearningOrder.THREE_STAGE else 1)


def shown(name: str, schedule: str) -> str:
    """Returns the name of a row, which says how long it learned."""
    return f"{re.sub(', (polish|full).*', '', name)} ({schedule})" if schedule else name


def main_table(network: str) -> dict[str, Recipe]:
    """Returns the recipes of a network's table."""
    names = [name for name in CLOSED_FORM if network not in HEAVY or name not in _NOT_ON_HEAVY]
    names += [*LEARNED, *((*FULL, *RESIDUAL) if network == "deit-tiny" else ())]
    several = COMPARED if network == "deit-tiny" else ()
    found = [Recipe(name, settings_of(name), SEEDS if name in several else (0,)) for name in names]
    return {recipe.name: recipe for recipe in (Recipe(FLOAT), *found)}


#: The parts of the recipes ``wXaY`` in the order in which they are added.
PARTS: dict[str, dict[str, Any]] = {
    "rotated heads": {"rotate_heads": True},
    "error feedback": {"weight_rounding": "error-feedback"},
    "compensated inputs": {"compensate_activations": True},
    "rotated residual stream": {"rotate_residual": True},
    "weighed tokens": {"token_weights": "hessian"},
    "shifted logarithm of the Softmax output": {"post_softmax": {}},
}
#: Parts that only recipes with activations below 8 bits have.
_OF_NARROW = ("compensated inputs", "shifted logarithm of the Softmax output")
#: Preset -> the recipe that also has a budget.
_BUDGETS = {"w4a4": "mixed-w4a5", "w3a3": "mixed-w3a4"}
_ABLATION_IMAGES = 256


def closed_form() -> dict[str, Recipe]:
    """Returns the parts of our recipes at three widths; each + adds one to the row above it."""
    rows: dict[str, Any] = {}
    for width in ("w4a8", "w4a4", "w3a3"):
        changes: dict[str, Any] = {"preset": width, **PLAIN}
        rows[f"{width} min-max"] = naive(width, int(width[-1]))
        rows[f"{width} folded LayerNorms, searched ranges"] = dict(changes)
        parts = {name: part for name, part in PARTS.items() if name not in _OF_NARROW or width[-1] != "8"}
        for name, part in parts.items():
            changes |= part
            rows[f"{width} + {name}"] = dict(changes)
        for name, part in parts.items():
            rows[f"{width}, all without {name}"] = changes | {field: PLAIN[field] for field in part}
        if width in _BUDGETS:  # which applies to equal steps only
            instead = {"budget": _budget(_BUDGETS[width]), "post_softmax": PLAIN["post_softmax"]}
            rows[f"{width}, Softmax output in equal steps, widths within a budget"] = changes | instead
    return {name: _as_in_main_table(name, settings) for name, settings in rows.items()}


def _budget(preset: str) -> dict[str, Any]:
    budget = QuantConfig.from_any(preset).budget
    assert budget is not None
    return {name: value for name, value in asdict(budget).items() if value is not None}


def _as_in_main_table(name: str, settings: Any) -> Recipe:
    """Returns a row; that of the main table, where the settings are the same."""
    known = _main_settings()
    same = known.get(Recipe(name, settings).digest)
    return Recipe(same, settings_of(same), SEEDS) if same else Recipe(name, settings, SEEDS)


@cache
def _main_settings() -> dict[str, str]:
    return {Recipe(name, settings_of(name)).digest: name for name in CLOSED_FORM}


def aiqvit_ablation() -> dict[str, Recipe]:
    """Returns the parts of AIQViT one by one, and the controls that the paper lacks, at two widths.

    All learn for the same number of gradient steps, a search step counting as two, on the same number
    of images.
    """
    search, steps = 20, 80
    uniform = {"post_softmax": {"quantizer": "uniform", "percentiles": SOFTMAX_PERCENTILES}}
    min_max = {"post_softmax": {"quantizer": "uniform", "percentiles": (1.0,), "criterion": "tensor"}}
    learned = {"search_steps": search, "steps": steps, "curriculum_interval": 20}
    one_phase = {**learned, "steps": steps + 2 * search}
    rows: dict[str, Any] = {}
    for bits in ("w4a4", "w3a3"):
        preset = {"preset": f"aiqvit-{bits}"}
        plain = {**preset, **min_max}
        searched = {**preset, **uniform}
        without_curriculum = {**learned, "curriculum": False}
        rows |= {
            f"{bits} none, min-max Softmax": {**plain, "reconstruction": None},
            f"{bits} DFQ": {**preset, "reconstruction": {**one_phase, "weights": "fixed", "curriculum": False}},
            f"{bits} AILoC, min-max Softmax": {**plain, "reconstruction": without_curriculum},
            f"{bits} AILoC + DFQ": {**preset, "reconstruction": without_curriculum},
            f"{bits} DFQ + CL": {**preset, "reconstruction": {**one_phase, "weights": "fixed"}},
            f"{bits} AILoC + DFQ + CL": {**preset, "reconstruction": learned},
            f"{bits} none": {**searched, "reconstruction": None},
            f"{bits} AILoC": {**searched, "reconstruction": without_curriculum},
            f"{bits} AILoC + CL": {**searched, "reconstruction": learned},
            f"{bits} AILoC + DFQ + CL, paper order": {**preset, "reconstruction": {**learned, "order": "paper"}},
            f"{bits} rank 100 + DFQ + CL": {**preset, "reconstruction": {**one_phase, "ranks": [100]}},
            f"{bits} full weights + DFQ + CL": {
                **preset,
                "reconstruction": {**one_phase, "weights": "full", "learning_rate": 4e-4},
            },
            f"{bits} AILoC + DFQ + CL + learned scales": {
                **preset,
                "reconstruction": {**learned, "scale_learning_rate": SCALE_LEARNING_RATE},
            },
        }
    return {name: Recipe(f"ablation: {name}", settings, SEEDS, _ABLATION_IMAGES) for name, settings in rows.items()}


def focus() -> dict[str, Recipe]:
    """Returns AIQViT with each quantizer of the Softmax output, at two widths."""
    quantizers: dict[str, dict[str, Any]] = {
        "uniform": {"quantizer": "uniform", "percentiles": SOFTMAX_PERCENTILES},
        "DFQ, snapped": {"code_zero": "snapped"},
        "DFQ, affine": {"code_zero": "affine"},
        "DFQ, zero": {"code_zero": "zero"},
        "DFQ, affine or zero": {},
        "log-sqrt2": {"quantizer": "log-sqrt2", "criterion": "tensor"},
        "shift-log2": {"quantizer": "shift-log2", "exponent_round": True, "tabulated": True, "criterion": "tensor"},
        "tan": {"quantizer": "tan", "tabulated": True},
    }
    return {
        f"{bits} {name}": Recipe(f"focus: {bits} {name}", {"preset": f"aiqvit-{bits}", "post_softmax": changes}, SEEDS)
        for bits in ("w4a4", "w3a3")
        for name, changes in quantizers.items()
    }


@dataclass(frozen=True)
class Table:
    """A page of one network: rows by the label that they have there."""

    title: str
    network: str
    make: Callable[[], dict[str, Recipe]]
    note: str


#: Pages of parts.
TABLES: dict[str, Table] = {
    "closed-form": Table(
        "Ablation of the recipes wXaY",
        "deit-tiny",
        closed_form,
        "Each row with a + adds one part to the row above it; `all without` leaves one out of the last of them. Nothing is learned.",
    ),
    "ablation": Table(
        "Ablation of AIQViT",
        "deit-tiny",
        aiqvit_ablation,
        "DFQ is the dynamic focusing quantizer with learned b1 and b2, AILoC low-rank compensation with the rank search, CL the curriculum;\n"
        "without DFQ the Softmax output is uniform, its range searched by the error of attention times V or, where the row says so, from\n"
        "least to greatest. Learned scales are ours; full weights, the fixed rank, the paper's order and the min-max range are controls.\n"
        "The schedule is a fraction of `quick`: read rows beside each other.",
    ),
    "focus": Table(
        "Quantizers of the Softmax output in AIQViT",
        "mnist",
        focus,
        "All else is AIQViT. `uniform` has its range searched by the error of attention times V. DFQ is the dynamic focusing quantizer:\n"
        "`snapped` has a fixed b1, the other readings learn it. The logarithms and the tangent are those of the other methods.",
    ),
}


def all_recipes(network: str) -> Iterator[Recipe]:
    """Yields every recipe of a network, of its own table and of others, once."""
    tables = [main_table(network), *(table.make() for table in TABLES.values() if table.network == network)]
    yield from {recipe.name: recipe for table in reversed(tables) for recipe in table.values()}.values()
