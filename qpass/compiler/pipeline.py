"""The way of the data for each recipe: the passes from a traced graph to a frozen one, as one flat list."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qpass.config import QuantConfig
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
    Pass,
    RefitQuantizers,
    RequireBlocks,
    ResumeWeightRounding,
    RidgeAndGPTQ,
    RotateHeads,
    RotateResidual,
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
    """Returns the passes that carry ``config`` out, in order.

    Args:
        config: The recipe.
        batches: Calls of the model.
        reference: Gets the float network, where a pass compares with it after weights have changed.
        layout: Which of their tensors go by rows; None tells by size.
        seed: Of what is drawn at random: the rotation of the residual stream, the signs of the budget's probe, and learning.
        checkpoint_dir: Where learned blocks are kept; None keeps none.
        storage: Where values of all batches lie while they are needed; None is in memory.
        processes: Those that share the work.
        show_progress: Show bars.

    Raises:
        DistributedError: If there are fewer batches than processes.
    """
    shared: dict[str, Any] = {"storage": storage, "processes": processes, "show_progress": show_progress}
    ranges = spread_samples(batches, config.range_samples, layout)
    statistics, reference = Statistics(), Reference() if reference is None else reference
    fold = [] if config.fold_layer_norm is None else [FoldLayerNorm(config.fold_layer_norm, reference)]
    if len(ranges) < processes.size:
        raise DistributedError(
            f"{len(ranges)} batches to calibrate on for {processes.size} processes",
            where="calib_loader",
            expected="a batch for each process at least",
            hint="give more samples, or smaller batches",
        )
    rounding = config.weight_rounding == "error-feedback"
    feedback: dict[str, Any] = {"activations": config.compensate_activations, "rounding": rounding}
    compensate: list[Pass] = []
    if any(feedback.values()):
        hessian = config.token_weights == "hessian"
        layers = RidgeAndGPTQ(ranges, **feedback, reference=reference, hessian=hessian, seed=seed, **shared)
        compensate = [KeepReference(reference), layers]
    residual = AddResidual(ranges, storage=storage, show_progress=show_progress)

    def learn(stage: str, **changes: Any) -> Reconstruct:
        assert config.reconstruction is not None
        folder = checkpoint_dir / stage if checkpoint_dir is not None else None
        learning = dataclasses.replace(config.reconstruction, **changes)
        return Reconstruct(
            learning,
            batches,
            reference=reference,
            stage=stage,
            seed=seed,
            checkpoint_dir=folder,
            **shared,
        )

    finish: dict[str | None, Callable[[], list[Pass]]] = {
        None: lambda: [*fold, *compensate, residual],
        "fold-first": lambda: [*fold, residual, *(compensate or [KeepReference(reference)]), learn("")],
        "paper": lambda: [KeepReference(reference), learn(""), *fold, residual],
        "three-stage": lambda: [
            KeepReference(reference),
            learn("activations", inputs="float"),
            *fold,
            ResumeWeightRounding(),
            residual,
            learn("weights"),
        ],
    }
    order = None if config.reconstruction is None else config.reconstruction.order
    passes: list[Pass] = [
        Canonicalize(),
        *([RotateResidual(seed)] if config.rotate_residual else []),
        *([RotateHeads()] if config.rotate_heads else []),
        Annotate(config),
        *([RequireBlocks()] if order is not None else []),
        Calibrate(ranges, statistics, per_channel=config.fold_layer_norm is not None, **shared),
        InsertQuantizers(statistics),
        AllocateBits(config.budget, ranges, statistics, seed=seed, storage=storage, show_progress=show_progress),
        *([SuspendWeightRounding()] if order == "three-stage" else []),
        RefitQuantizers(ranges if config.calibrate_on == "quantized" else (), statistics, **shared),
        *finish[order](),
        Freeze(),
    ]
    check_stages(passes)
    return passes
