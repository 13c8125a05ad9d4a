"""The transform of images: the model's or the saved one, with what the command line changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any


def model_transform(network: Any, crop: int | None, resize: int | None) -> Any:
    """Returns the network's own transform with these changes; ``resize=0`` means none."""
    from qpass.zoo.timm_models import default_transform

    return changed(default_transform(network), crop, resize)


def changed(transform: Any, crop: int | None, resize: int | None) -> Any:
    """Returns the transform with these changes; ``resize=0`` means none."""
    if crop is not None:
        transform = replace(transform, crop=crop)
    return transform if resize is None else replace(transform, resize=resize or None)


def saved_transform(folder: Path, crop: int | None, resize: int | None) -> Any:
    """Returns the transform in a folder's settings with these changes; ``resize=0`` means none."""
    from qpass.cli.run_folder import read_settings

    return changed(read_settings(folder).transform, crop, resize)
