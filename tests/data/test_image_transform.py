"""What a transform of images may hold, and that it survives JSON."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from qpass.data import ImageTransform
from qpass.data.preprocess import preprocess
from qpass.errors import ConfigError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"crop": (1, 2, 3)}, "transform.crop: got .* expected one side, or height and width"),
        ({"crop": (4, 0)}, "transform.crop: got 0; expected 1 to 8192 pixels"),
        ({"interpolation": "bicubik"}, "unknown interpolation 'bicubik'; did you mean 'bicubic'"),
        ({"fit": "crop"}, "unknown fit 'crop'"),
        ({"channel_order": "gbr"}, "unknown channel order 'gbr'"),
        ({"fill": (1, 2)}, "transform.fill: got .* expected one number, or three"),
        ({"fill": (300,)}, "transform.fill: got"),
        ({"crop_rounding": "up"}, "unknown rounding 'up'"),
        ({"mean": (0.5,)}, "expected one number for each of 1 or 3 channels"),
    ],
)
def test_other_values_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ImageTransform(**fields)


def test_json_gives_the_same_transform_and_the_same_pixels() -> None:
    transform = ImageTransform(
        crop=(6, 8),
        resize=(10, 12),
        fit="contain",
        fill=(1, 2, 3),
        channel_order="bgr",
        interpolation="box",
        crop_rounding="down",
    )
    assert ImageTransform(**json.loads(json.dumps(asdict(transform)))) == transform
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (21, 34, 3), np.uint8))
    found = preprocess(image, json.loads(json.dumps(transform.to_dict())))
    assert found.shape == (3, 6, 8)
    assert torch.equal(torch.from_numpy(found), transform(image))


def test_a_file_is_decoded_as_its_image() -> None:
    image, buffer = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)), io.BytesIO()
    image.save(buffer, "png")
    transform = ImageTransform(crop=4, resize=6)
    assert torch.equal(transform.decode(buffer.getvalue(), "a.png"), transform(image))
