"""Bytes of an image file as 8-bit pixels: what PIL would clip is scaled or refused, and nothing is unpacked without a bound."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from qpass.errors import DataError

#: Bytes of an image file; what is larger is none that anybody calibrates on.
LARGEST_IMAGE = 2**28
#: Pixels of an image, as it lies in its file and after resizing: a photograph has a tenth of this.
LARGEST_PIXELS = 2**27
#: What files with the names of images hold. PIL knows more kinds by their content, and starts Ghostscript for PostScript.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF")
#: Numbers of TIFF's tags: bits of a channel, and whether 0 is white (0) or black (1).
_BITS, _PHOTOMETRIC = 258, 262
#: PIL's modes of one 16-bit channel, each pixel 257 times an 8-bit one. A PNG of 16 bits has the mode "I" in older versions.
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
_HINT = "remove or replace the file"


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
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
        check_pixels(*image.size, where)
        return _eight_bits(image, where).convert(mode)
    except UnidentifiedImageError as error:
        raise DataError("is not a readable image", where=where, expected=", ".join(_FORMATS), hint=_HINT) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"is not a readable image: {error}", where=where, hint=_HINT) from error


def image_bytes(path: Path) -> bytes:
    """Returns the bytes of an image file.

    Raises:
        DataError: If it is no file, such as a pipe, too large, or cannot be read.
    """
    try:
        if not path.exists():
            raise DataError("does not exist", where=str(path), expected="an image")
        if not path.is_file():
            raise DataError("is no file", where=str(path), expected="an image", hint="move it away, or rename it")
        if (size := path.stat().st_size) > LARGEST_IMAGE:
            raise DataError(f"has {size} bytes", where=str(path), expected=f"an image of at most {LARGEST_IMAGE}")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error}", where=str(path), expected="an image") from error


def check_pixels(width: int, height: int, where: str) -> None:
    """Refuses an image of more than ``LARGEST_PIXELS``.

    Raises:
        DataError: With its size.
    """
    if width * height > LARGEST_PIXELS:
        raise DataError(f"is {width} x {height} pixels", where=where, expected=f"an image of at most {LARGEST_PIXELS} pixels")


def _eight_bits(image: Image.Image, where: str) -> Image.Image:
    if image.mode in _SIXTEEN_BITS or (image.mode == "I" and image.format == "PNG"):
        tags = getattr(image, "tag_v2", {})
        greatest = 2 ** (tags.get(_BITS) or (16,))[0] - 1  # TIFF has gray of 12 bits too
        values = np.asarray(image).astype(np.float32) * (255 / greatest)
        if tags.get(_PHOTOMETRIC) == 0:  # PIL turns white and black around for 8 bits alone
            values = 255 - values
        return Image.fromarray(np.round(values).astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "32-bit integers" if image.mode == "I" else "floats"
        raise DataError(
            f"holds {kind}, whose black and white no file says",
            where=where,
            expected="8 or 16 bits a channel",
            hint="convert the images, or bring them as an .npy array of what the model takes",
        )
    return image
