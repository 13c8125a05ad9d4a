"""Resizing, cropping and normalizing, compared with torchvision."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import v2

from qpass.data import ImageTransform
from qpass.data.preprocess import center_crop, crop_start, preprocess, resized_size

SIZES = ((40, 31), (31, 40), (17, 17), (9, 64))


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values).convert(mode)


@pytest.mark.parametrize("resize", [20, 31, (24, 30)])
def test_a_size_is_torchvisions(resize: int | tuple[int, int]) -> None:
    how = ImageTransform(resize=resize, fit="stretch").to_dict()
    for size in SIZES:
        assert resized_size(size, how) == v2.Resize(resize)(Image.new("RGB", size)).size


def test_a_pair_covers_or_is_fitted_into() -> None:
    how = ImageTransform(resize=(20, 30)).to_dict()
    assert resized_size((60, 60), how) == (30, 30)
    assert resized_size((60, 60), how | {"fit": "contain"}) == (20, 20)
    assert resized_size((60, 60), how | {"fit": "stretch"}) == (30, 20)
    assert resized_size((1, 1000), how | {"fit": "contain"}) == (1, 20)


@pytest.mark.parametrize("size", [(16, 16), (15, 20), (33, 12)])
def test_a_centre_crop_is_torchvisions(size: tuple[int, int]) -> None:
    for width, height in SIZES:
        image = picture(width, height)
        expected = v2.CenterCrop(size)(image)
        np.testing.assert_array_equal(np.asarray(center_crop(image, size, [0], "half-even")), np.asarray(expected))


def test_odd_borders_are_rounded_as_asked() -> None:
    assert [crop_start(have, 4, "half-even") for have in (4, 5, 6, 7, 9)] == [0, 0, 1, 2, 2]
    assert [crop_start(have, 4, "down") for have in (4, 5, 6, 7, 9)] == [0, 0, 1, 1, 2]


def test_borders_have_the_colour_asked_for() -> None:
    pixels = np.asarray(center_crop(Image.new("RGB", (2, 2), "white"), (4, 4), [1, 2, 3], "down"))
    assert pixels[0, 0].tolist() == [1, 2, 3]
    assert pixels[1:3, 1:3].tolist() == [[[255] * 3] * 2] * 2
    assert np.asarray(center_crop(Image.new("L", (2, 2)), (4, 2), [7], "down"))[0].tolist() == [7, 7]


@pytest.mark.parametrize(
    ("transform", "mode"),
    [
        (ImageTransform(crop=8, channel_order="bgr", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)), "RGB"),
        (ImageTransform(crop=8, mean=(0.1,), std=(0.4,)), "L"),
        (ImageTransform(crop=8), "L"),
        (ImageTransform(crop=8), "RGBA"),
    ],
)
def test_values_are_normalized_in_the_order_of_the_networks_channels(transform: ImageTransform, mode: str) -> None:
    image = picture(8, 8, mode)
    found = preprocess(image, transform.to_dict())
    pixels = np.asarray(image.convert("L" if len(transform.mean) == 1 else "RGB"), np.float64).reshape(8, 8, -1) / 255
    if transform.channel_order == "bgr":
        pixels = pixels[:, :, ::-1]
    expected = (pixels - transform.mean) / transform.std
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), rtol=1e-6, atol=1e-6)
