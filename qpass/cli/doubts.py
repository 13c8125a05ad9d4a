"""Warnings about a run that works and whose result would mean nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from qpass.data.value_range import ValueRange, range_of_values

if TYPE_CHECKING:
    from qpass.evaluation.top1 import Accuracy

#: Ranges fitted on fewer samples are unreliable.
FEW = 8


def doubts_of_weights(model: str, checkpoint: Path | None, folder: Path | None) -> Iterator[str]:
    """Yields a warning if the weights of a timm model are random.

    Args:
        model: The model's name, or ``package.module:factory``.
        checkpoint: The file of its weights.
        folder: The folder that it was loaded from.
    """
    if checkpoint is None and folder is None and ":" not in model:
        yield f"{model} has random weights, so its accuracy means nothing; give its weights with --checkpoint"


def doubts_of_images(batch: Tensor, count: int, asked: int | None, *, arrays: bool, normalized: bool) -> Iterator[str]:
    """Yields warnings about the calibration images.

    Args:
        batch: The first batch: (batch, channels, height, width).
        count: Number of images.
        asked: Number of images that the command asked for.
        arrays: Whether they are arrays, which are used unchanged.
        normalized: Whether the model is known to expect normalized images.
    """
    if asked is not None and count < asked:
        yield f"{asked} calibration images were asked for, and there are {count}"
    if count < FEW:
        yield f"{count} calibration image{'s' * (count != 1)}: ranges fitted on so few are unreliable; give 32 to 128"
    if arrays and normalized and batch.is_floating_point():
        least, greatest = batch.min().item(), batch.max().item()
        if range_of_values(least, greatest) is not ValueRange.NORMALIZED:
            yield (
                f"the calibration arrays have values from {least:g} to {greatest:g}, like pixels that are not normalized; "
                "the model expects normalized ones: subtract its mean and divide by its std, or give image files"
            )


def doubt_of_labels(base: Accuracy) -> str | None:
    """Returns a warning if the float network does no better than guessing.

    Args:
        base: Its accuracy on the labelled images.
    """
    guessed, count = 1 / base.classes if base.classes else 0.0, len(base.correct)
    if not guessed or base.top1 > guessed + 2 * (guessed * (1 - guessed) / count) ** 0.5:
        return None
    return (
        f"the float network classifies {base.top1:.1%} of {count} images correctly, no more than guessing would: the labels may"
        " count the classes in another order, or the images need another preprocessing"
    )


def doubt_of_file(exact_on: str, file: str, target: str) -> str | None:
    """Returns a note on a file that never ran in its target runtime, or is not exact everywhere.

    Args:
        exact_on: The processors on which it matches its graph, as the report names them.
        file: The file.
        target: Its target.
    """
    from qpass.backends.onnx_qdq.export import EVERY_PROCESSOR
    from qpass.backends.onnx_qdq.targets import target_by_name

    if untried := target_by_name(target).untried:
        return f"{file} is verified numerically in onnxruntime's CPU, and was not run in {untried}"
    if exact_on == EVERY_PROCESSOR:
        return None
    return f"on x86 processors without VNNI, {file} gives other results; --weight-type uint8 is exact on every processor"


def doubts_of_folder(output: Path, model: str, recipe: str) -> Iterator[str]:
    """Yields a warning if the folder holds the result of another model or recipe.

    Args:
        output: The folder.
        model: Name of the model of this run.
        recipe: Name of the recipe of this run.
    """
    from qpass.cli.run_folder import FIGURES, SETTINGS

    before: list[Any] = []
    for name, keys in ((SETTINGS, ("model",)), (FIGURES, ("config", "name"))):
        try:
            found = json.loads((output / name).read_text(encoding="utf-8"))
            for key in keys:
                found = found[key]
        except (OSError, ValueError, KeyError, TypeError):
            return  # not the output of a finished run
        before.append(found)
    if before != [model, recipe]:
        yield f"{output} holds {before[0]} as {before[1]}, which this run replaces"
