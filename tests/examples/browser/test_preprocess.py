"""The page's preprocessing gives what qpass's own gives, to the bit. Decoding is compared in test_page.py."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image

from qpass.data import ImageTransform
from qpass.data.image_transform import INTERPOLATIONS
from qpass.data.preprocess import preprocess
from tests.examples.javascript import call

MODULE = "browser/src/preprocess.js"
#: Before version 13, pillow took the width first in every image. Between the passes it rounds, and clips what overshoots.
LEVELS_OFF = 0 if int(PIL.__version__.partition(".")[0]) >= 13 else 8
SIZES = ((61, 47), (40, 90), (33, 33), (7, 25), (200, 9))
HOWS = (
    *(ImageTransform(crop=24, resize=28, interpolation=filter_) for filter_ in INTERPOLATIONS),
    ImageTransform(crop=(20, 31), resize=None, fill=(1, 2, 3)),
    ImageTransform(crop=(20, 31), resize=None, crop_rounding="down", fill=(7,)),
    ImageTransform(crop=24, resize=(24, 24), fit="stretch", interpolation="bilinear"),
    ImageTransform(crop=24, resize=(24, 31), fit="cover", channel_order="bgr", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)),
    ImageTransform(crop=24, resize=(24, 31), fit="contain", crop_rounding="down"),
    ImageTransform(crop=16, resize=19, mean=(0.13,), std=(0.31,)),
    ImageTransform(crop=80, resize=96),
)


def picture(width: int, height: int) -> Image.Image:
    """Noise beside flat black and white, where bicubic weights overshoot."""
    values = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    values[:, : width // 3] = np.where(np.arange(height) % 8 < 4, 0, 255)[:, None, None]
    return Image.fromarray(values)


def pixels_of(image: Image.Image) -> dict[str, Any]:
    return {"width": image.width, "height": image.height, "data": np.asarray(image.convert("RGBA"))}


def test_every_input_equals_qpasss_to_the_bit() -> None:
    cases = list(itertools.product(map(ImageTransform.to_dict, HOWS), itertools.starmap(picture, SIZES)))
    results = call(*((MODULE, "preprocess", [pixels_of(image), how]) for how, image in cases))
    for (how, image), result in zip(cases, results, strict=True):
        tensor = result["result"]["input"]
        found, expected = tensor["data"].reshape(tensor["dims"]), preprocess(image, how)
        assert found.shape == expected.shape
        levels = np.abs(found - expected) * 255 * np.reshape(how["std"], (-1, 1, 1))
        assert levels.max() <= LEVELS_OFF, f"{image.size}, {how}: differs by {levels.max()} of 255 levels"


@pytest.mark.parametrize("channels", ["RGB", "BGR", "L"])
def test_what_the_network_sees_is_shown_in_its_true_colours(channels: str) -> None:
    means = (0.0,) if channels == "L" else (0.0,) * 3
    order = "bgr" if channels == "BGR" else "rgb"
    how = ImageTransform(crop=8, mean=means, std=(1.0,) * len(means), channel_order=order).to_dict()
    image = picture(8, 8)
    (result,) = call((MODULE, "preprocess", [pixels_of(image), how]))
    expected = np.asarray(image.convert("L" if channels == "L" else "RGB"))
    np.testing.assert_array_equal(result["result"]["seen"]["data"], expected.ravel())


def test_an_unknown_filter_is_named() -> None:
    how = ImageTransform(crop=8, resize=9).to_dict() | {"interpolation": "cubic"}
    (result,) = call((MODULE, "preprocess", [pixels_of(picture(20, 20)), how]))
    assert result["error"] == "no filter is called cubic"
