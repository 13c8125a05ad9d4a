"""How blocks are learned after calibration: ``ReconstructionConfig``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qpass.config.fields import check_fields, choice, flag, number, optional, several, whole
from qpass.errors import ConfigError, check_keys

_count = whole(1, expected="a whole number above 0")
_above_0 = number(lambda value: value > 0, "a number above 0")
_from_0 = number(lambda value: value >= 0, "0 or a number above it")
_share = number(lambda value: 0 <= value < 1, "a share of one")
_CHECKS = {
    "weights": choice(("low-rank", "full", "fixed")),
    "ranks": several(_count, "whole numbers above 0"),
    "search_steps": whole(0, expected="a whole number"),
    **dict.fromkeys(("steps", "batch_size", "curriculum_interval"), _count),
    **dict.fromkeys(("learning_rate", "architecture_learning_rate"), _above_0),
    **dict.fromkeys(("focus_learning_rate", "scale_learning_rate"), _from_0),
    **dict.fromkeys(("drop_path", "validation_share"), _share),
    "curriculum_start": number(lambda value: 0 <= value <= 1, "a share of one"),
    "inputs": choice(("quantized", "float")),
    "curriculum": flag,
    "order": choice(("fold-first", "paper", "three-stage")),
    "loss": choice(("norm", "squared")),
    "precision": choice(("auto", "float32", "bfloat16")),
    "patience": optional(_count),
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
        check_fields(self, _CHECKS, "reconstruction.")
        if len(self.ranks) > 1 and self.weights == "low-rank" and not self.search_steps:
            raise ConfigError(
                f"{len(self.ranks)} ranks and no step to search them", where="reconstruction.search_steps", hint="give one rank"
            )
        if self.order == "three-stage" and self.weights == "low-rank":
            raise ConfigError(
                "weights='low-rank' with order='three-stage'",
                where="reconstruction.weights",
                expected="'full' or 'fixed': the first stage has no rounded weights to compensate",
            )
        if self.validation_share == 0 and self.search_steps:
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
        return dataclasses.replace(base or cls(), **data)
