"""Turns the previews of a report into pictures for a page, and says what looks wrong with the values."""

from __future__ import annotations

import base64
import io

from PIL import Image

from qpass.data.value_range import ValueRange, range_of_values
from qpass.report.data import InputPreview, Thumbnail


def png_url(image: Thumbnail) -> str:
    """Returns a picture as a data URL."""
    pixels = b"".join(base64.b64decode(row) for row in image.rows)
    picture, buffer = Image.frombytes("L" if image.channels == 1 else "RGB", (image.width, image.height), pixels), io.BytesIO()
    picture.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def doubt(preview: InputPreview) -> str:
    """Returns what is unusual about the values of images for a pretrained network, or ""."""
    low, high = min(preview.lows), max(preview.highs)
    found = range_of_values(low, high)
    if found is ValueRange.CONSTANT:
        return "All values are equal: these are no images."
    if found is ValueRange.BYTES:
        return f"Values reach {high:.3g}: they look like bytes that were not divided by 255."
    if found is ValueRange.UNIT:
        return (
            "Values lie between 0 and 1. Most pretrained networks expect a mean subtracted from images and a standard deviation"
            " divided out: check the preprocessing, unless the network normalizes by itself."
        )
    return ""
