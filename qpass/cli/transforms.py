"""The transform of images: the model's or the saved one, with what the command line changes."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from qpass.errors import ConfigError, DataError


def numbers(_: click.Context, option: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """Callback of an option that takes numbers with commas between them."""
    if value is None:
        return None
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError:
        expected = "numbers such as 0.5,0.5,0.5"
        raise ConfigError(f"got {value!r}", where=str(option.opts[0]), expected=expected) from None


def sides(_: click.Context, option: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Callback of an option that takes one side or HEIGHTxWIDTH."""
    if value is None:
        return None
    try:
        parts = [int(part) for part in value.lower().split("x")]
    except ValueError:
        parts = []
    if len(parts) not in (1, 2) or min(parts) < 1:
        raise ConfigError(
            f"got {value!r}", where=str(option.opts[0]), expected="a side or HEIGHTxWIDTH in pixels, such as 480x640"
        )
    return parts[0], parts[-1]


def read_names(path: Path) -> list[str]:
    """Returns the lines of a text file.

    Raises:
        DataError: If it cannot be read, or has an empty line between others.
    """
    from qpass.data.regular_file import read_text

    names = [line.strip() for line in read_text(path, "a class name in each line").strip().splitlines()]
    if not names or not all(names):
        what = f"line {names.index('') + 1} is empty" if names else "is empty"
        raise DataError(what, where=str(path), expected="a class name in each line")
    return names


def model_transform(
    source: Any,
    calib: Path,
    *,
    crop: int | None = None,
    resize: int | None = None,
    image_size: tuple[int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> tuple[Any, bool]:
    """Returns the transform of a model's images with these changes, and whether it is known to be right.

    Warns if nobody says how images are normalized. Arrays are used as they are, without a warning.

    Args:
        source: The ``SourceModel``.
        calib: Path of the calibration data.
        crop: Side of the centre crop.
        resize: Length of the shorter side before the crop; 0 means none.
        image_size: (height, width) to which images are resized, without keeping their aspect ratio.
        mean: Mean of each channel; given with ``std``.
        std: Standard deviation of each channel.

    Raises:
        ConfigError: If options contradict one another.
        QPassError: If images of the model cannot be preprocessed by a transform.
    """
    from qpass.data import ImageTransform
    from qpass.data.images import is_array

    if (mean is None) != (std is None):
        raise ConfigError("one of them is given", where="--mean, --std", expected="both, or neither")
    if source.refusal is not None and not is_array(calib):
        raise source.refusal
    transform = source.transform or ImageTransform()
    if image_size is not None:
        if (crop, resize) != (None, None):
            raise ConfigError("given with --crop or --resize", where="--image-size", expected="one of them")
        transform = replace(transform, crop=image_size, resize=image_size, fit="stretch")
    transform = changed(transform, crop, resize)
    if mean is not None:
        transform = replace(transform, mean=mean, std=std)
    known = source.transform is not None or mean is not None
    if not known and not is_array(calib):
        warnings.warn(
            "the model does not say how its images are normalized: ImageNet's mean and std are used; give the model's own"
            " with --mean and --std",
            stacklevel=2,
        )
    return transform, known or not is_array(calib)


def changed(transform: Any, crop: int | None, resize: int | None) -> Any:
    """Returns the transform with these changes; ``resize=0`` means none."""
    if crop is not None:
        transform = replace(transform, crop=crop)
    return transform if resize is None else replace(transform, resize=resize or None, fit="cover")


def saved_transform(folder: Path, crop: int | None, resize: int | None) -> Any:
    """Returns the transform in a folder's settings with these changes; ``resize=0`` means none."""
    from qpass.cli.run_folder import read_settings

    return changed(read_settings(folder).transform, crop, resize)
