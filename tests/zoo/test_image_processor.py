"""Image processors of transformers as transforms: equal to the bit to what they give by pillow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image

from qpass.errors import DataError
from qpass.zoo.image_processor import processor_transform

SQUARE = {"size": {"height": 48, "width": 48}}
#: Name of the processor without ``ImageProcessor`` -> its settings: every way in which they size images.
PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "stretched": ("ViT", SQUARE),
    "to a rectangle": ("ViT", {"size": {"height": 32, "width": 64}, "resample": 3}),
    "cropped": ("CLIP", {"size": {"shortest_edge": 51}, "crop_size": {"height": 48, "width": 48}}),
    "stretched, then cropped": ("DeiT", {"size": {"height": 57, "width": 57}, "crop_size": {"height": 48, "width": 48}}),
    "blue first, with a border": ("MobileViT", {"size": {"shortest_edge": 40}, "crop_size": {"height": 48, "width": 48}}),
    "share of the edge": ("ConvNext", {"size": {"shortest_edge": 48}, "crop_pct": 0.875}),
    "share of the edge, cropped": ("PoolFormer", {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}),
    "eight sevenths": ("Levit", {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}),
    "std twice": ("EfficientNet", SQUARE),
    "from -1 to 1": ("EfficientNet", {**SQUARE, "rescale_factor": 1 / 127.5, "rescale_offset": True, "include_top": False}),
    "0 to 1": ("RTDetr", SQUARE),
    "0 to 255": ("ViT", {**SQUARE, "do_rescale": False, "do_normalize": False}),
    "lanczos": ("Chameleon", {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}),
    "only cropped": ("CLIP", {"do_resize": False, "crop_size": {"height": 48, "width": 48}}),
}


def picture(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_transform_gives_what_the_processor_gives(name: str) -> None:
    kind, settings = PROCESSORS[name]
    transform = processor_transform(getattr(transformers, f"{kind}ImageProcessor")(**settings), name)
    exact = getattr(transformers, f"{kind}ImageProcessorPil")(**settings)
    for width, height in ((100, 75), (75, 100), (60, 60), (131, 90)):
        image = picture(width, height)
        expected = exact(images=image, return_tensors="np")["pixel_values"][0]
        np.testing.assert_allclose(transform(image).numpy(), expected, rtol=1e-5, atol=1e-5)


def test_images_of_various_sizes_need_one() -> None:
    processor = transformers.DetrImageProcessor(size={"shortest_edge": 40, "longest_edge": 60})
    with pytest.raises(DataError, match=r"p\.json: gives images of various sizes; .* give --image-size, such as"):
        processor_transform(processor, "p.json")
    transform = processor_transform(processor, "p.json", (32, 48))
    assert (transform.crop, transform.resize, transform.fit) == ((32, 48), (32, 48), "stretch")
    exact = transformers.DetrImageProcessorPil()
    expected = exact(images=picture(90, 70), size={"height": 32, "width": 48}, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(transform(picture(90, 70)).numpy(), expected, rtol=1e-5, atol=1e-5)


def test_what_a_transform_cannot_do_is_refused() -> None:
    processor = transformers.Owlv2ImageProcessor(size={"height": 48, "width": 48})  # makes images square first
    with pytest.raises(DataError, match=r"Owlv2ImageProcessor does more than .* calibrate with an \.npz"):
        processor_transform(processor, "p.json")
