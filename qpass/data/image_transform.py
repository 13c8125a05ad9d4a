"""Preprocessing of images: resize, crop, normalize."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from qpass.config.fields import check_fields, choice, number, optional, refuse, several, whole
from qpass.data.decode import check_pixels, decode_image
from qpass.data.preprocess import preprocess, resized_size

#: Maximum side of a network's input, in pixels.
LARGEST_SIDE = 8192
#: How ``resize`` is meant, and where a crop of odd borders starts.
FITS, CROP_ROUNDINGS, CHANNEL_ORDERS = ("cover", "contain", "stretch"), ("half-even", "down"), ("rgb", "bgr")
INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
_side = whole(1, LARGEST_SIDE, expected=f"1 to {LARGEST_SIDE} pixels")


def _sides(value: Any, where: str) -> Any:
    """Accepts one side, or (height, width)."""
    if not isinstance(value, list | tuple):
        return _side(value, where)
    if len(value) != 2:
        raise refuse(value, where, "one side, or height and width")
    return tuple(_side(side, where) for side in value)


_CHECKS = {
    "crop": _sides,
    "resize": optional(_sides),
    "mean": several(number(lambda value: True, ""), "numbers"),
    "std": several(number(lambda value: value > 0, ""), "numbers above 0"),
    "interpolation": choice(INTERPOLATIONS, noun="interpolation"),
    "fit": choice(FITS, noun="fit"),
    "channel_order": choice(CHANNEL_ORDERS, noun="channel order"),
    "fill": several(whole(0, 255), "one colour value of 0 to 255 for each channel, or one for all"),
    "crop_rounding": choice(CROP_ROUNDINGS, noun="rounding"),
}


@dataclass(frozen=True, kw_only=True)
class ImageTransform:
    """Image -> normalized float tensor (channels, height, width). EXIF orientation is not applied.

    Resizes with pillow, crops the centre, divides by 255, subtracts the mean and divides by std.

    Attributes:
        crop: Size of the centre crop in pixels, which is the network's: one side, or (height, width).
            A smaller image gets borders.
        resize: Size to which images are resized first; None skips resizing. A number is the length of
            the shorter side. A pair (height, width) is used as ``fit`` says.
        mean: Mean of each channel of the network's input, for values in [0, 1].
        std: Standard deviation of each channel.
        interpolation: pillow's name of the filter that resizes, such as ``"bicubic"``.
        fit: For a pair ``resize``: ``"cover"`` keeps the aspect ratio and covers that size,
            ``"contain"`` keeps it and fits inside, ``"stretch"`` gives exactly that size.
        channel_order: ``"rgb"``, or ``"bgr"`` for networks that take blue first.
        fill: Colour of borders, 0 to 255: one number, or one for each of red, green and blue.
        crop_rounding: Where a crop starts if the borders it cuts off have an odd sum:
            ``"half-even"``, as torchvision and timm do, or ``"down"``, as transformers does.

    Raises:
        ConfigError: If a field has the wrong type, or mean and std are not one number for each of 1
            or 3 channels.
    """

    crop: int | tuple[int, int] = 224
    resize: int | tuple[int, int] | None = None
    mean: Sequence[float] = (0.485, 0.456, 0.406)
    std: Sequence[float] = (0.229, 0.224, 0.225)
    interpolation: str = "bicubic"
    fit: str = "cover"
    channel_order: str = "rgb"
    fill: Sequence[int] = (0,)
    crop_rounding: str = "half-even"

    def __post_init__(self) -> None:
        check_fields(self, _CHECKS, "transform.")
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise refuse((self.mean, self.std), "transform.mean and std", "one number for each of 1 or 3 channels")
        if len(self.fill) not in (1, 3):
            raise refuse(self.fill, "transform.fill", "one number, or three")

    def __call__(self, image: Image.Image) -> Tensor:
        """Returns the tensor of one image."""
        return torch.from_numpy(preprocess(image, self.to_dict()))

    def to_dict(self) -> dict[str, Any]:
        """Returns the preprocessing as plain data: what ``preprocessing.json`` and ``out/run.py`` hold."""
        size = (self.crop, self.crop) if isinstance(self.crop, int) else self.crop
        return {
            "layout": "NCHW",
            "dtype": "float32",
            "channels": "L" if len(self.mean) == 1 else self.channel_order.upper(),
            "size": list(size),
            "resize": list(self.resize) if isinstance(self.resize, tuple) else self.resize,
            "fit": self.fit,
            "interpolation": self.interpolation,
            "crop_rounding": self.crop_rounding,
            "fill": list(self.fill),
            "rescale": 1 / 255,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def decode(self, data: bytes, where: str) -> Tensor:
        """Returns the tensor of an image file.

        Args:
            data: Content of the file.
            where: Name of the file in messages.

        Raises:
            DataError: If the data is not an image, or too large before or after resizing.
        """
        image = decode_image(data, "L" if len(self.mean) == 1 else "RGB", where)
        if self.resize is not None:
            check_pixels(*resized_size(image.size, self.to_dict()), where)
        return self(image)
