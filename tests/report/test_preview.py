"""Previews hold what the network is given, and nothing where that is no image."""

from __future__ import annotations

import base64

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qpass.data import ModelInputs
from qpass.graph.capture.trace import trace
from qpass.report.data import InputPreview, Thumbnail
from qpass.report.preview import PICTURES, SIDE, input_preview, without_pictures


def preview(x: Tensor) -> InputPreview | None:
    return input_preview(trace(nn.Identity(), (x,)), ModelInputs((x,), {}))


def pixels(image: Thumbnail) -> np.ndarray:
    data = np.frombuffer(b"".join(map(base64.b64decode, image.rows)), np.uint8)
    return data.reshape(image.height, image.width, image.channels)


def test_a_small_image_is_shown_pixel_by_pixel() -> None:
    x = torch.randn(6, 3, 12, 20, generator=torch.Generator().manual_seed(0))
    found = preview(x)
    assert found is not None
    assert (found.shape, len(found.images)) == ((3, 12, 20), PICTURES)
    wide = x.numpy().astype(np.float64)
    expected = np.round((wide - wide.min()) / (wide.max() - wide.min()) * 255).transpose(0, 2, 3, 1)
    for image, own in zip(found.images, expected, strict=False):
        assert np.abs(pixels(image) - own).max() <= 1
    assert found.means == pytest.approx(wide.mean((0, 2, 3)))
    assert found.stds == pytest.approx(wide.std((0, 2, 3)))
    assert found.lows == pytest.approx(wide.min((0, 2, 3)))
    assert found.highs == pytest.approx(wide.max((0, 2, 3)))


def test_a_large_image_is_averaged_and_keeps_its_sides() -> None:
    x = torch.zeros(1, 1, 2 * SIDE, SIDE)
    x[:, :, ::2] = 1
    found = preview(x)
    assert found is not None
    (image,) = found.images
    assert (image.width, image.height, image.channels) == (SIDE // 2, SIDE, 1)
    assert set(pixels(image).flatten()) == {128}


@pytest.mark.parametrize(
    "x",
    [torch.randn(2, 4, 16, 16), torch.randn(2, 16, 16), torch.randn(2, 3, 4, 16), torch.randint(9, (2, 3, 16, 16))],
    ids=["4 channels", "tokens", "4 rows", "whole numbers"],
)
def test_other_inputs_are_no_images(x: Tensor) -> None:
    assert preview(x) is None


def test_equal_values_are_black() -> None:
    found = preview(torch.full((1, 3, 8, 8), 0.5))
    assert found is not None
    assert set(pixels(found.images[0]).flatten()) == {0}


def test_pictures_are_left_out_and_ranges_stay() -> None:
    found = preview(torch.randn(4, 1, 9, 9, generator=torch.Generator().manual_seed(0)))
    assert found is not None
    bare = without_pictures(found)
    assert bare is not None
    assert (bare.images, bare.lows, bare.stds) == ((), found.lows, found.stds)
    assert without_pictures(None) is None
