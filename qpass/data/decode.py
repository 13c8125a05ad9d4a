"""Bytes of an image file as 8-bit pixels: what PIL would clip is scaled or refused, and nothing is unpacked without a bound."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from qpass.errors import DataError

#: Pixels of an image, as it lies in its file and after resizing: a photograph has a tenth of this.
LARGEST_PIXELS = 2**27
#: PIL's modes of one 16-bit channel, each pixel 257 times an 8-bit one. A PNG of 16 bits has the mode "I" in older versions.
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")


def decode_image(data: bytes, mode: str, where: str) -> Image.Image:
    """Returns an image with 8 bits a channel.

    Values of 16 bits are scaled. The orientation that EXIF names is not applied: pixels stay as they lie in the file, as
    ``PIL.Image.open`` gives them.

    Args:
        data: The file.
        mode: ``"L"`` for gray or ``"RGB"``.
        where: What messages name.

    Raises:
        DataError: If it is no image, too large, or has values whose range its file does not say.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the check below is stricter
            image = Image.open(io.BytesIO(data))
        check_pixels(*image.size, where)
        return _eight_bits(image, where).convert(mode)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"is not a readable image: {error}", where=where, hint="remove or replace the file") from error


def check_pixels(width: int, height: int, where: str) -> None:
    """Refuses an image of more than ``LARGEST_PIXELS``.

    Raises:
        DataError: With its size.
    """
    if width * height > LARGEST_PIXELS:
        raise DataError(f"is {width} x {height} pixels", where=where, expected=f"an image of at most {LARGEST_PIXELS} pixels")


def _eight_bits(image: Image.Image, where: str) -> Image.Image:
    if image.mode in _SIXTEEN_BITS or (image.mode == "I" and image.format == "PNG"):
        values = np.asarray(image).astype(np.float32)
        return Image.fromarray(np.round(values / 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "32-bit integers" if image.mode == "I" else "floats"
        raise DataError(
            f"holds {kind}, whose black and white no file says",
            where=where,
            expected="8 or 16 bits a channel",
            hint="convert the images, or bring them as an .npy array of what the model takes",
        )
    return image
