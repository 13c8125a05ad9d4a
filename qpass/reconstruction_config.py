"""How blocks are learned after calibration: ``ReconstructionConfig``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qpass.errors import ConfigError, check_keys, nearest

_CHOICES = {
    "weights": ("low-rank", "full", "fixed"),
    "inputs": ("quantized", "float"),
    "order": ("fold-first", "paper", "three-stage"),
    "loss": ("norm", "squared"),
    "precision": ("auto", "float32", "bfloat16"),
}


@dataclass(frozen=True, kw_only=True)
class ReconstructionConfig:
    """Block-wise learning against the float network; the defaults are AIQViT's (arXiv 2502.04628) at full length.

    Attributes:
        weights: What is learned of the weights of a block's Linears: ``"low-rank"``, factors B A under the rounding (AILoC, eq.
            9); ``"full"``, the weights and biases themselves (the control that the paper lacks); ``"fixed"``, nothing.
        ranks: Candidates for the rank, searched (eq. 11-14) where there are several. Each is capped at the least side of a
            weight.
        search_steps: Steps of the rank search for each block; unused with one rank.
        steps: Steps of the calibration that follows, for each block.
        batch_size: Samples in a step (a graph with a fixed batch keeps its own).
        learning_rate: Of factors or weights, with Adam and a cosine to zero.
        architecture_learning_rate: Of the architecture weights in the rank search.
        focus_learning_rate: Of b1 and b2 of ``dynamic-focus`` quantizers; 0 leaves them as fitted.
        scale_learning_rate: Of the scales of uniform activations, as a share of the scale (LSQ, arXiv 1902.08153); 0, AIQViT's,
            leaves them as fitted.
        drop_path: Probability that a candidate is left out of a step of the search.
        validation_share: Share of the samples that the architecture weights are learned on.
        inputs: A block reads what the ``"quantized"`` blocks before it give, or what the ``"float"`` ones do.
        curriculum: Begin with the easiest samples (eq. 16-17).
        curriculum_start: Share of the samples at the first step.
        curriculum_interval: Steps between two rankings of the samples.
        order: ``"fold-first"`` folds LayerNorm scales before blocks are learned, ``"paper"`` afterwards, which keeps less
            accuracy (benchmarks/results/ablation.md). ``"three-stage"`` is I&S-ViT's (arXiv 2311.10126): blocks are learned
            with float weights, a scale for each channel and inputs of the float network; scales are folded; blocks are
            learned again with rounded weights and ``inputs``.
        loss: Of a sample: the ``"norm"`` of the difference between two outputs of a block (AIQViT), or that ``"squared"``
            (I&S-ViT).
        precision: Of the products in a step: ``"bfloat16"`` by autocast, ``"float32"``, or ``"auto"``, bfloat16 where the
            machine multiplies it faster.
        patience: Stop a block after so many steps without an improvement of 1 % of its loss; None runs every step.
    """

    weights: str = "low-rank"
    ranks: tuple[int, ...] = (10, 20, 50, 100, 150)
    search_steps: int = 2000
    steps: int = 6000
    batch_size: int = 24
    learning_rate: float = 1e-3
    architecture_learning_rate: float = 3e-3
    focus_learning_rate: float = 1e-4
    scale_learning_rate: float = 0.0
    drop_path: float = 0.1
    validation_share: float = 0.5
    inputs: str = "quantized"
    curriculum: bool = True
    curriculum_start: float = 0.5
    curriculum_interval: int = 500
    order: str = "fold-first"
    loss: str = "norm"
    precision: str = "auto"
    patience: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "ranks", tuple(self.ranks))
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ConfigError(f"got {value!r}", where=f"reconstruction.{name}", hint=nearest(str(value), choices))
        if not self.ranks or not all(_whole(rank) and rank > 0 for rank in self.ranks):
            raise ConfigError(f"got {self.ranks!r}", where="reconstruction.ranks", expected="whole numbers above 0")
        for name in ("steps", "batch_size", "curriculum_interval"):
            _check(name, getattr(self, name), _whole(getattr(self, name)) and getattr(self, name) > 0, "a whole number above 0")
        searches = _whole(self.search_steps) and self.search_steps > 0
        _check("search_steps", self.search_steps, searches or self.search_steps == 0, "a whole number")
        if len(self.ranks) > 1 and self.weights == "low-rank" and not searches:
            raise ConfigError(
                f"{len(self.ranks)} ranks and no step to search them", where="reconstruction.search_steps", hint="give one rank"
            )
        waits = _whole(self.patience) and self.patience is not None and self.patience > 0
        _check("patience", self.patience, self.patience is None or waits, "a whole number above 0, or None")
        for name in ("learning_rate", "architecture_learning_rate"):
            _check(name, getattr(self, name), getattr(self, name) > 0, "a number above 0")
        for name in ("focus_learning_rate", "scale_learning_rate"):
            _check(name, getattr(self, name), getattr(self, name) >= 0, "0 or a number above it")
        for name in ("drop_path", "validation_share", "curriculum_start"):
            value = getattr(self, name)
            _check(name, value, 0 <= value < 1 or (name == "curriculum_start" and value == 1), "a share of one")
        if self.order == "three-stage" and self.weights == "low-rank":
            raise ConfigError(
                "weights='low-rank' with order='three-stage'",
                where="reconstruction.weights",
                expected="'full' or 'fixed': the first stage has no rounded weights to compensate",
            )
        if self.validation_share == 0 and searches:
            raise ConfigError("got 0", where="reconstruction.validation_share", expected="samples for the rank search")

    @property
    def steps_of_a_block(self) -> int:
        """Steps of search and calibration together."""
        return self.steps + (self.search_steps if self.weights == "low-rank" and len(self.ranks) > 1 else 0)

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any], base: ReconstructionConfig | None = None) -> ReconstructionConfig:
        """Returns ``base`` (None: the defaults) with these fields changed.

        Raises:
            ConfigError: For an unknown key or a bad value.
        """
        check_keys(data, (f.name for f in dataclasses.fields(cls)), "reconstruction")
        try:
            return dataclasses.replace(base or cls(), **data)
        except TypeError as error:
            raise ConfigError(str(error), where="reconstruction") from error


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check(name: str, value: Any, fits: bool, expected: str) -> None:
    if not fits:
        raise ConfigError(f"got {value!r}", where=f"reconstruction.{name}", expected=expected)
