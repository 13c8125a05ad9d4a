"""The way of the data for each recipe: the passes from a traced graph to a frozen one, as one flat list."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qpass.config import QuantConfig
from qpass.data import ModelInputs
from qpass.data.batches import spread_samples
from qpass.passes import (
    AddResidual,
    Annotate,
    Calibrate,
    Canonicalize,
    FoldLayerNorm,
    Freeze,
    InsertQuantizers,
    Pass,
    RefitQuantizers,
    check_joins,
)
from qpass.reconstruction import Reconstruct


def pipeline(
    config: QuantConfig,
    batches: Sequence[ModelInputs],
    *,
    seed: int = 0,
    checkpoint_dir: Path | None = None,
    show_progress: bool = False,
) -> list[Pass]:
    """Returns the passes that carry ``config`` out, in order.

    Args:
        config: The recipe.
        batches: Calls of the model.
        seed: Of the random numbers that learning draws.
        checkpoint_dir: Where learned blocks are kept; None keeps none.
        show_progress: Show bars.
    """
    fold = [] if config.fold_layer_norm is None else [FoldLayerNorm(config.fold_layer_norm)]
    learn: list[Pass] = []
    if config.reconstruction is not None:
        learn.append(
            Reconstruct(config.reconstruction, batches, seed=seed, checkpoint_dir=checkpoint_dir, show_progress=show_progress)
        )
    ranges = spread_samples(batches, config.range_samples)
    residual = AddResidual(ranges, show_progress=show_progress)
    paper_order = config.reconstruction is not None and config.reconstruction.order == "paper"
    passes: list[Pass] = [
        Canonicalize(),
        Annotate(config),
        Calibrate(ranges, per_channel=config.fold_layer_norm is not None, show_progress=show_progress),
        InsertQuantizers(),
        RefitQuantizers(ranges if config.calibrate_on == "quantized" else (), show_progress=show_progress),
        *([*learn, *fold, residual] if paper_order else [*fold, residual, *learn]),
        Freeze(),
    ]
    check_joins(passes)
    return passes
