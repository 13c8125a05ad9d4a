"""A float model with what is known about its images and classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from qpass.data import ImageTransform
from qpass.errors import DataError, QPassError
from qpass.zoo import pretrained
from qpass.zoo.timm_models import (
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
        folder: Folder of transformers that it comes from.
        refusal: Why the preprocessing of its folder cannot be a transform; None if it can.
    """

    network: nn.Module
    transform: ImageTransform | None
    class_names: Sequence[str] = ()
    folder: Path | None = None
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
    folder = pretrained.find_folder(name)
    if folder is None:
        return _described(create_model(name, checkpoint, **kwargs))
    if kwargs:
        raise DataError(f"takes no arguments, got {', '.join(kwargs)}", where=name, hint="its config.json has the model's")
    config = pretrained.read_config(folder)
    if "architecture" in config:
        source = _described(load_timm_folder(folder))
    else:
        network, transform, refusal = pretrained.load_network(folder, config), None, None
        try:
            transform = pretrained.load_transform(folder, image_size)
        except QPassError as error:  # of no importance if calibration data are arrays
            refusal = error
        names = pretrained.class_names(config)
        source = SourceModel(network=network, transform=transform, class_names=names, folder=folder, refusal=refusal)
    if checkpoint is not None:
        load_checkpoint(source.network, Path(checkpoint))
    return source


def _described(network: nn.Module) -> SourceModel:
    if not knows_its_preprocessing(network):
        return SourceModel(network=network, transform=None)
    return SourceModel(network=network, transform=default_transform(network), class_names=class_names(network))
