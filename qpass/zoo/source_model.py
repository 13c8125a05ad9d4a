"""A float model with what is known about its images and classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from qpass.data import ImageTransform
from qpass.errors import DataError, QPassError
from qpass.zoo import pretrained
from qpass.zoo.timm_models import (
    WEIGHTS,
    class_names,
    create_model,
    default_transform,
    knows_its_preprocessing,
    load_checkpoint,
    load_timm_folder,
)


@dataclass(frozen=True, kw_only=True)
class SourceModel:
    """A float model, and what is known about its images and classes.

    Attributes:
        network: The model in eval mode.
        transform: How its images are preprocessed; None if unknown.
        class_names: Names of its classes, in the order of the scores; empty if unknown.
        folder: Folder that it comes from.
        companions: Files of the folder by which other programs load it, beside the weights.
        refusal: Why the preprocessing of its folder cannot be a transform; None if it can.
    """

    network: nn.Module
    transform: ImageTransform | None
    class_names: Sequence[str] = ()
    folder: Path | None = None
    companions: Sequence[Path] = ()
    refusal: QPassError | None = None


def open_model(
    name: str, checkpoint: str | Path | None = None, *, image_size: tuple[int, int] | None = None, **kwargs: Any
) -> SourceModel:
    """Returns a float model by name.

    Args:
        name: A folder that ``save_pretrained`` of transformers or timm wrote, the name of one in the
            local cache of the Hugging Face hub, or a name that ``create_model`` takes.
        checkpoint: A file of other weights; see ``create_model``.
        image_size: (height, width) to which images are resized, for image processors that give images
            of various sizes.
        **kwargs: Passed to the factory; there is none for a folder.

    Raises:
        DataError: If there is no such model, or it cannot be loaded.
    """
    refuse_file(name)
    folder = pretrained.find_folder(name)
    if folder is None:
        return _described(create_model(name, checkpoint, **kwargs))
    if kwargs:
        raise DataError(f"takes no arguments, got {', '.join(kwargs)}", where=name, hint="its config.json has the model's")
    config = pretrained.read_config(folder)
    if "architecture" in config:
        source = replace(_described(load_timm_folder(folder)), folder=folder)
    else:
        network, transform, refusal = pretrained.load_network(folder, config), None, None
        try:
            transform = pretrained.load_transform(folder, image_size)
        except QPassError as error:  # of no importance if calibration data are arrays
            refusal = error
        names = pretrained.class_names(config)
        companions = pretrained.companions_in(folder)
        source = SourceModel(
            network=network, transform=transform, class_names=names, folder=folder, companions=companions, refusal=refusal
        )
    if checkpoint is not None:
        load_checkpoint(source.network, Path(checkpoint))
    return source


def refuse_file(name: str) -> None:
    """Refuses a file in the place of a model, with what to give instead.

    Raises:
        DataError: If the name is that of a file, or ends like one of weights or of an ONNX model.
    """
    suffix = Path(name).suffix.lower()
    if Path(name).is_dir():
        return
    hint = "MODEL is a network; calibration images go to --calib"
    if suffix == ".onnx":
        hint = "qpass quantizes PyTorch models: give the one that the ONNX file was exported from"
    elif suffix in WEIGHTS:
        hint = "weights go to --checkpoint; MODEL says of which network they are"
    elif not Path(name).is_file():
        return
    raise DataError(
        "is a file", where=name, expected="a timm model's name, package.module:factory, or a model's folder", hint=hint
    )


def _described(network: nn.Module) -> SourceModel:
    if not knows_its_preprocessing(network):
        return SourceModel(network=network, transform=None)
    return SourceModel(network=network, transform=default_transform(network), class_names=class_names(network))
