"""``ReconstructionConfig``: how blocks are learned after calibration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qpass.config.fields import at_least_one, check_fields, choice, flag, number, optional, several, whole
from qpass.config.options import BlockInputs, BlockLoss, LearnedWeights, LearningOrder, Precision
from qpass.errors import ConfigError, check_keys

_above_0 = number(lambda value: value > 0, "a number above 0")
_from_0 = number(lambda value: value >= 0, "0 or a number above it")
_share = number(lambda value: 0 <= value < 1, "a share of one")
_CHECKS = {
    "weights": choice(LearnedWeights),
    "ranks": several(at_least_one, "whole numbers above 0"),
    "search_steps": whole(0, expected="a whole number"),
    **dict.fromkeys(("steps", "batch_size", "curriculum_interval"), at_least_one),
    **dict.fromkeys(("learning_rate", "architecture_learning_rate"), _above_0),
    **dict.fromkeys(("focus_learning_rate", "scale_learning_rate", "norm_learning_rate", "output_weight"), _from_0),
    **dict.fromkeys(("drop_path", "validation_share"), _share),
    "focus_starts": several(_share, "numbers from 0 to below 1", least=0),
    "curriculum_start": number(lambda value: 0 <= value <= 1, "a share of one"),
    "inputs": choice(BlockInputs),
    **dict.fromkeys(("curriculum", "ends"), flag),
    "order": choice(LearningOrder),
    "loss": choice(BlockLoss),
    "precision": choice(Precision),
    "patience": optional(at_least_one),
}


@dataclass(frozen=True, kw_only=True)
class ReconstructionConfig:
    """Block-wise learning against the float network; defaults: full-length AIQViT (arXiv 2502.04628).

    Attributes:
        weights: What to learn in the layers of a block: ``"low-rank"`` factors added before rounding,
            the ``"full"`` weights and biases, or nothing, ``"fixed"`` (``LearnedWeights``).
        ends: Also learn the layers before the first block and after the last, such as the patch
            embedding and the head. Layers after the last block need a network with one finite output.
        ranks: Candidate ranks, searched (eq. 11-14) if there are several. Each is capped at the smaller
            side of the weight.
        search_steps: Rank search steps per block; unused with one rank.
        steps: Steps per block of the calibration after the search.
        batch_size: Samples per step (a graph with a fixed batch size keeps its own).
        learning_rate: Learning rate of factors or weights; Adam with cosine decay to zero.
        architecture_learning_rate: Learning rate of the architecture weights in the rank search.
        focus_learning_rate: Learning rate of b1 and b2 of ``dynamic-focus`` quantizers; 0 leaves them
            as fitted.
        focus_starts: Values of b1 from which learning may start, besides the fitted one, unless
            ``focus_learning_rate`` is 0. The start with the lowest block error is taken. AIQViT's
            learned b1 are .01 to .02.
        scale_learning_rate: Learning rate of uniform activation scales, relative to the scale (LSQ,
            arXiv 1902.08153), and of the levels of activation codebooks, relative to their mean
            distance; 0, as in AIQViT, leaves them as fitted.
        norm_learning_rate: Learning rate of the weights and biases of LayerNorms, relative to their
            mean magnitude; 0, as in AIQViT, leaves them.
        drop_path: Probability that a search step drops a candidate.
        validation_share: Fraction of samples on which the architecture weights are learned.
        inputs: Whether a block's inputs come from the ``"quantized"`` or ``"float"`` blocks before it
            (``BlockInputs``).
        curriculum: Start with the easiest samples (eq. 16-17).
        curriculum_start: Fraction of samples used in the first step.
        curriculum_interval: Steps between two rankings of the samples.
        order: When LayerNorm scales are folded: ``"fold-first"``, before learning; ``"paper"``,
            afterwards; ``"three-stage"``, in between, as in I&S-ViT (``LearningOrder``).
        loss: Loss of a sample: the ``"norm"`` of the difference between two outputs of a block, or that
            norm ``"squared"`` (``BlockLoss``).
        output_weight: Weight of the network's output error relative to the block's own error, each
            divided by its first value. The float network after the block reads the block's output.
            GLF-Q uses 0.5, at the final feature. 0, as in AIQViT, ignores the network's error.
        precision: Precision of matmuls in a step: ``"float32"``, ``"bfloat16"``, or ``"auto"``, which
            uses bfloat16 where the hardware multiplies it faster (``Precision``).
        patience: Stop a block after this many steps without a 1 % lower loss; None runs every step.
    """

    weights: str = LearnedWeights.LOW_RANK.value
    ends: bool = False
    ranks: tuple[int, ...] = (10, 20, 50, 100, 150)
    search_steps: int = 2000
    steps: int = 6000
    batch_size: int = 24
    learning_rate: float = 1e-3
    architecture_learning_rate: float = 3e-3
    focus_learning_rate: float = 1e-4
    focus_starts: tuple[float, ...] = (0.01, 0.015, 0.02)
    scale_learning_rate: float = 0.0
    norm_learning_rate: float = 0.0
    drop_path: float = 0.1
    validation_share: float = 0.5
    inputs: str = BlockInputs.QUANTIZED.value
    curriculum: bool = True
    curriculum_start: float = 0.5
    curriculum_interval: int = 500
    order: str = LearningOrder.FOLD_FIRST.value
    loss: str = BlockLoss.NORM.value
    output_weight: float = 0.0
    precision: str = Precision.AUTO.value
    patience: int | None = None

    def __post_init__(self) -> None:
        check_fields(self, _CHECKS, "reconstruction.")
        if len(self.ranks) > 1 and self.weights == LearnedWeights.LOW_RANK and not self.search_steps:
            raise ConfigError(
                f"{len(self.ranks)} ranks and no step to search them", where="reconstruction.search_steps", hint="give one rank"
            )
        if self.order == LearningOrder.THREE_STAGE and self.weights == LearnedWeights.LOW_RANK:
            raise ConfigError(
                "weights='low-rank' with order='three-stage'",
                where="reconstruction.weights",
                expected="'full' or 'fixed': the first stage has no rounded weights to compensate",
            )
        if self.validation_share == 0 and self.search_steps:
            raise ConfigError("got 0", where="reconstruction.validation_share", expected="samples for the rank search")

    @property
    def steps_of_a_block(self) -> int:
        """Total steps of search and calibration."""
        return self.steps + (self.search_steps if self.weights == LearnedWeights.LOW_RANK and len(self.ranks) > 1 else 0)

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any], base: ReconstructionConfig | None = None) -> ReconstructionConfig:
        """Returns ``base`` (None: the defaults) with these fields replaced.

        Raises:
            ConfigError: For an unknown key or an invalid value.
        """
        check_keys(data, (f.name for f in dataclasses.fields(cls)), "reconstruction")
        return dataclasses.replace(base or cls(), **data)
