"""The passes of each recipe, from a traced graph to a frozen one, as one flat list."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qpass.config import QuantConfig
from qpass.config.options import BlockInputs, CalibrateOn, LearningOrder, TokenWeights, WeightRounding
from qpass.data import ModelInputs
from qpass.data.rows import Layout, spread_samples
from qpass.errors import DistributedError
from qpass.passes import (
    AddResidual,
    AllocateBits,
    Annotate,
    Calibrate,
    Canonicalize,
    FoldLayerNorm,
    Freeze,
    InsertQuantizers,
    KeepReference,
    NarrowRows,
    Pass,
    RefitQuantizers,
    RequireBlocks,
    ResumeWeightRounding,
    RidgeAndGPTQ,
    RotateHeads,
    RotateResidual,
    ScaleChannels,
    ScaleQueries,
    SuspendWeightRounding,
    check_stages,
)
from qpass.passes.analysis.reference import Reference
from qpass.passes.analysis.statistics import Statistics
from qpass.reconstruction import Reconstruct
from qpass.runtime.distributed import ALONE, Processes
from qpass.runtime.storage import Storage


def pipeline(
    config: QuantConfig,
    batches: Sequence[ModelInputs],
    *,
    reference: Reference | None = None,
    layout: Layout = None,
    seed: int = 0,
    checkpoint_dir: Path | None = None,
    storage: Storage | None = None,
    processes: Processes = ALONE,
    show_progress: bool = False,
) -> list[Pass]:
    """Returns the passes that carry out ``config``, in order.

    Args:
        config: The recipe.
        batches: Calibration batches.
        reference: Receives the float network, where a pass compares with it after weights have changed.
        layout: Which of their tensors have rows; None infers it from sizes.
        seed: Random seed for the rotation of the residual stream, the signs of the budget's probe, and
            learning.
        checkpoint_dir: Where to save learned blocks; None saves none.
        storage: Where to keep values of all batches while they are needed; None keeps them in memory.
        processes: The processes that share the work.
        show_progress: Show progress bars.

    Raises:
        DistributedError: If there are fewer batches than processes.
    """
    ranges = spread_samples(batches, config.range_samples, layout)
    if len(ranges) < processes.size:
        raise DistributedError(
            f"{len(ranges)} batches to calibrate on for {processes.size} processes",
            where="calib_loader",
            expected="a batch for each process at least",
            hint="give more samples, or smaller batches",
        )
    steps = _Steps(
        config=config,
        batches=batches,
        ranges=ranges,
        reference=Reference() if reference is None else reference,
        seed=seed,
        checkpoint_dir=checkpoint_dir,
        shared={"storage": storage, "processes": processes, "show_progress": show_progress},
    )
    passes = [*steps.prepare(), *steps.quantize(), *steps.finish(), NarrowRows(steps.reference), Freeze()]
    check_stages(passes)
    return passes


@dataclass(frozen=True, kw_only=True)
class _Steps:
    """The passes of one recipe, grouped by purpose.

    Attributes:
        config: The recipe.
        batches: Calibration batches to learn from.
        ranges: Batches to fit ranges on.
        reference: The float network.
        seed: Random seed.
        checkpoint_dir: Where to save learned blocks.
        shared: Arguments of every pass that runs batches.
    """

    config: QuantConfig
    batches: Sequence[ModelInputs]
    ranges: Sequence[ModelInputs]
    reference: Reference
    seed: int
    checkpoint_dir: Path | None
    shared: dict[str, Any]

    def prepare(self) -> list[Pass]:
        """Canonicalization, rotations, and the plan."""
        return [
            Canonicalize(),
            *([RotateResidual(self.seed)] if self.config.rotate_residual else []),
            *([RotateHeads()] if self.config.rotate_heads else []),
            *([ScaleQueries()] if self.config.signed_codes else []),
            Annotate(self.config),
            *([self._scale_channels()] if self.config.scale_channels else []),
            *([] if self.config.reconstruction is None else [RequireBlocks()]),
        ]

    def _scale_channels(self) -> ScaleChannels:
        processes, show_progress = self.shared["processes"], self.shared["show_progress"]
        return ScaleChannels(self.ranges, processes=processes, show_progress=show_progress)

    def quantize(self) -> list[Pass]:
        """Calibration, quantizers, bit widths, and a refit of quantizers behind the quantized prefix."""
        config, statistics, learning = self.config, Statistics(), self.config.reconstruction
        unshared = {name: self.shared[name] for name in ("storage", "show_progress")}
        return [
            Calibrate(self.ranges, statistics, per_channel=self._fold_target is not None, **self.shared),
            InsertQuantizers(statistics),
            AllocateBits(config.budget, self.ranges, statistics, seed=self.seed, **unshared),
            *([SuspendWeightRounding()] if learning is not None and learning.order == LearningOrder.THREE_STAGE else []),
            RefitQuantizers(self.ranges if config.calibrate_on == CalibrateOn.QUANTIZED else (), statistics, **self.shared),
        ]

    def finish(self) -> list[Pass]:
        """Folding, weight correction and learning, in the recipe's order."""
        keep, learning = KeepReference(self.reference), self.config.reconstruction
        residual = AddResidual(self.ranges, storage=self.shared["storage"], show_progress=self.shared["show_progress"])
        order = None if learning is None else learning.order
        if order is None:
            return [*self._fold(), *self._correct(), residual]
        if order == LearningOrder.FOLD_FIRST:
            return [*self._fold(), residual, *(self._correct() or [keep]), self._learn("")]
        if order == LearningOrder.PAPER:
            return [keep, self._learn(""), *self._fold(), residual]
        activations, weights = self._learn("activations", inputs=BlockInputs.FLOAT), self._learn("weights")
        return [keep, activations, *self._fold(), ResumeWeightRounding(), residual, weights]

    def _fold(self) -> list[Pass]:
        target = self._fold_target
        return [] if target is None else [FoldLayerNorm(target, self.reference)]

    @property
    def _fold_target(self) -> str | None:
        """The target of LayerNorm scales, which only quantizers with a zero point fold."""
        return None if self.config.signed_codes else self.config.fold_layer_norm

    def _correct(self) -> list[Pass]:
        rounding = self.config.weight_rounding == WeightRounding.ERROR_FEEDBACK
        if not rounding and not self.config.compensate_activations:
            return []
        correct = RidgeAndGPTQ(
            self.ranges,
            activations=self.config.compensate_activations,
            rounding=rounding,
            reference=self.reference,
            hessian=self.config.token_weights == TokenWeights.HESSIAN,
            seed=self.seed,
            **self.shared,
        )
        return [KeepReference(self.reference), correct]

    def _learn(self, stage: str, **changes: Any) -> Reconstruct:
        assert self.config.reconstruction is not None
        return Reconstruct(
            dataclasses.replace(self.config.reconstruction, **changes),
            self.batches,
            reference=self.reference,
            stage=stage,
            seed=self.seed,
            checkpoint_dir=None if self.checkpoint_dir is None else self.checkpoint_dir / stage,
            **self.shared,
        )
