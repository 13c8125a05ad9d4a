"""Turns an image into a network's input, by numpy and pillow alone.

``out/run.py`` contains a copy of these functions: a deployed file gets the inputs that it was
calibrated with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def preprocess(image: Image.Image, how: Mapping[str, Any]) -> NDArray[np.float32]:
    """Returns an image as the network's input: (channels, height, width) float32.

    Args:
        image: Of any mode with 8 bits per channel. EXIF orientation is not applied.
        how: The preprocessing, as in ``preprocessing.json``: ``resize``, ``fit``, ``interpolation``,
            ``size``, ``crop_rounding``, ``fill``, ``channels``, ``mean`` and ``std``.
    """
    image = image.convert("L" if how["channels"] == "L" else "RGB")
    if how["resize"] is not None:
        width, height = resized_size(image.size, how)
        image = image.resize((width, height), Image.Resampling[how["interpolation"].upper()])
    image = center_crop(image, how["size"], how["fill"], how["crop_rounding"])
    pixels = np.atleast_3d(np.asarray(image, np.float32)).transpose(2, 0, 1)
    if how["channels"] == "BGR":
        pixels = pixels[::-1]
    mean, std = (np.array(how[name], np.float32).reshape(-1, 1, 1) for name in ("mean", "std"))
    return np.ascontiguousarray((pixels / np.float32(255) - mean) / std)


def resized_size(size: tuple[int, int], how: Mapping[str, Any]) -> tuple[int, int]:
    """Returns (width, height) of an image of this (width, height) after resizing."""
    (width, height), resize = size, how["resize"]
    if isinstance(resize, int):  # the shorter side; the longer one is rounded down
        return max(1, resize * width // min(size)), max(1, resize * height // min(size))
    if how["fit"] == "stretch":
        return resize[1], resize[0]
    ratios = height / resize[0], width / resize[1]
    ratio = max(ratios) if how["fit"] == "contain" else min(ratios)
    return max(1, round(width / ratio)), max(1, round(height / ratio))


def center_crop(image: Image.Image, size: Sequence[int], fill: Sequence[int], rounding: str) -> Image.Image:
    """Returns the centre of an image, of ``size`` (height, width), with borders of ``fill``."""
    height, width = size
    left, top = (crop_start(have, want, rounding) for have, want in zip(image.size, (width, height), strict=True))
    if min(left, top) >= 0:
        return image.crop((left, top, left + width, top + height))
    color = fill[0] if image.mode == "L" else (tuple(fill) * 3)[:3]
    canvas = Image.new(image.mode, (width, height), color)
    canvas.paste(image, (-left, -top))
    return canvas


def crop_start(have: int, want: int, rounding: str) -> int:
    """Returns where a centre crop starts; below 0 for the width of the border before a smaller image."""
    if have < want:
        return -((want - have) // 2)
    return round((have - want) / 2) if rounding == "half-even" else (have - want) // 2
