"""Passes: graph -> graph, one a file. ``pipeline`` is the way of the data, from a traced graph to a frozen one."""

from collections.abc import Sequence

from qpass.config import QuantConfig
from qpass.data import ModelInputs
from qpass.passes.annotate import Annotate
from qpass.passes.base import STAGES, Pass, check_joins
from qpass.passes.calibrate import Calibrate
from qpass.passes.canonicalize import Canonicalize
from qpass.passes.fold_layer_norm import FoldLayerNorm
from qpass.passes.freeze import Freeze
from qpass.passes.insert_quantizers import InsertQuantizers
from qpass.passes.refit import RefitQuantizers


def pipeline(config: QuantConfig, batches: Sequence[ModelInputs], *, show_progress: bool = False) -> list[Pass]:
    """Returns the passes that carry ``config`` out, in order."""
    passes: list[Pass] = [
        Canonicalize(),
        Annotate(config),
        Calibrate(batches, per_channel=config.fold_layer_norm is not None, show_progress=show_progress),
        InsertQuantizers(),
        RefitQuantizers(batches if config.calibrate_on == "quantized" else (), show_progress=show_progress),
        *([] if config.fold_layer_norm is None else [FoldLayerNorm(config.fold_layer_norm)]),
        Freeze(),
    ]
    check_joins(passes)
    return passes


__all__ = [
    "STAGES",
    "Annotate",
    "Calibrate",
    "Canonicalize",
    "FoldLayerNorm",
    "Freeze",
    "InsertQuantizers",
    "Pass",
    "RefitQuantizers",
    "check_joins",
    "pipeline",
]
