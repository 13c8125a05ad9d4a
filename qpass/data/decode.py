"""Decodes image files to 8-bit pixels, with bounded memory.

Values that PIL would clip are scaled or rejected.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from qpass.data.regular_file import read_regular_file
from qpass.errors import DataError

#: Maximum bytes of an image file; no calibration image is larger.
LARGEST_IMAGE = 2**28
#: Maximum pixels of an image, in its file and after resizing. A photograph has a tenth of this.
LARGEST_PIXELS = 2**27
#: Accepted formats. PIL would detect more from the content, and run Ghostscript for PostScript.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF")
#: TIFF tag numbers: bits per channel, and whether 0 is white (0) or black (1).
_BITS, _PHOTOMETRIC = 258, 262
#: PIL's modes with one 16-bit channel, where a pixel is 257 times its 8-bit value. Older PIL
#: versions open 16-bit PNGs as "I".
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
_HINT = "remove or replace the file"


def decode_image(data: bytes, mode: str, where: str) -> Image.Image:
    """Returns an image with 8 bits per channel.

    Scales 16-bit values. Like ``PIL.Image.open``, does not apply the EXIF orientation.

    Args:
        data: Content of the file.
        mode: ``"L"`` for gray or ``"RGB"``.
        where: Name of the file in messages.

    Raises:
        DataError: If the data is not an image, is too large, or has values of unknown range.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the check below is stricter
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
        check_pixels(*image.size, where)
        return eight_bits(image, where).convert(mode)
    except UnidentifiedImageError as error:
        raise DataError("is not a readable image", where=where, expected=", ".join(_FORMATS), hint=_HINT) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"is not a readable image: {error}", where=where, hint=_HINT) from error


def image_bytes(path: Path) -> bytes:
    """Returns the bytes of an image file; see ``read_regular_file``."""
    return read_regular_file(path, LARGEST_IMAGE, "an image")


def check_pixels(width: int, height: int, where: str) -> None:
    """Rejects an image of more than ``LARGEST_PIXELS`` pixels.

    Raises:
        DataError: States the size.
    """
    if width * height > LARGEST_PIXELS:
        raise DataError(f"is {width} x {height} pixels", where=where, expected=f"an image of at most {LARGEST_PIXELS} pixels")


def eight_bits(image: Image.Image, where: str) -> Image.Image:
    """Returns an image with 8 bits per channel: values of 12 and 16 bits are scaled.

    Raises:
        DataError: If the range of its values is unknown.
    """
    if image.mode in _SIXTEEN_BITS or (image.mode == "I" and image.format == "PNG"):
        tags = getattr(image, "tag_v2", {})
        greatest = 2 ** (tags.get(_BITS) or (16,))[0] - 1  # TIFF also has 12-bit gray
        values = np.asarray(image).astype(np.float32) * (255 / greatest)
        if tags.get(_PHOTOMETRIC) == 0:  # PIL inverts only 8-bit images
            values = 255 - values
        return Image.fromarray(np.round(values).astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "32-bit integers" if image.mode == "I" else "floats"
        raise DataError(
            f"holds {kind}, whose range is unknown",
            where=where,
            expected="8 or 16 bits a channel",
            hint="convert the images, or pass the model inputs as an .npy array",
        )
    return image
