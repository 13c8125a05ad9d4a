"""Pictures come back pixel by pixel, and wrong ranges are named."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

from qpass.report.data import InputPreview, Thumbnail
from qpass.report.pictures import doubt, png_url


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_a_png(channels: int) -> None:
    rows = [bytes(range(row, row + 5 * channels)) for row in (0, 50)]
    thumbnail = Thumbnail(5, 2, channels, tuple(base64.b64encode(row).decode() for row in rows))
    head, data = png_url(thumbnail).split(",")
    assert head == "data:image/png;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert picture.size == (5, 2)
    assert picture.tobytes() == b"".join(rows)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(-2.1, 2.6, ""), (-1.0, 1.0, ""), (0.0, 1.0, "between 0 and 1"), (0.0, 255.0, "divided by 255"), (3.0, 3.0, "no images")],
)
def test_odd_ranges_are_named(low: float, high: float, said: str) -> None:
    found = doubt(InputPreview("x", (1, 8, 8), (low,), (high,), (0.0,), (1.0,), ()))
    assert said in found
    assert bool(said) == bool(found)
