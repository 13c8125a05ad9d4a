"""Calibration batches from paths and PIL images, with every kind of preprocessing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import nn
from torchvision.transforms import v2

import qpass
from qpass.data import ImageTransform
from qpass.errors import ConfigError, DataError
from tests.models import small_vit
from tests.pretrained import write_images

TRANSFORM = ImageTransform(crop=32, resize=36)
PILLOW = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 50, 3), np.uint8)) for i in range(5)]
ALL = torch.stack([TRANSFORM(image) for image in PILLOW])


def in_order(batches: Any) -> torch.Tensor:
    """The rows of batches, ordered by their values: a draw has an order of its own."""
    rows = torch.cat(list(batches))
    return rows[torch.argsort(rows.flatten(1)[:, 0], stable=True)]


def rows_of(source: Any, **options: Any) -> torch.Tensor:
    return in_order(qpass.images(source, TRANSFORM, **options))


@pytest.mark.parametrize(
    "make",
    [
        lambda: PILLOW,
        lambda: iter(PILLOW),
        lambda: [(image, 3) for image in PILLOW],
        lambda: ({"label": 3, "image": image} for image in PILLOW),
    ],
    ids=["list", "iterator", "pairs", "mappings"],
)
def test_any_iterable_of_images(make: Callable[[], Any]) -> None:
    assert torch.equal(rows_of(make()), in_order([ALL]))


def test_batches_are_counted_and_come_again() -> None:
    batches = qpass.images(PILLOW, TRANSFORM, count=5, batch_size=2)
    assert len(batches) == 3
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert all(torch.equal(a, b) for a, b in zip(batches, batches, strict=True))


def test_a_draw_is_random_by_its_seed_and_an_iterator_gives_the_first() -> None:
    drawn = [next(iter(qpass.images(PILLOW, TRANSFORM, count=2, seed=seed))) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(rows_of(iter(PILLOW), count=2), in_order([ALL[:2]]))
    assert len(rows_of(iter(PILLOW), count=None)) == 5


def test_a_folder(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 3)
    expected = [TRANSFORM(Image.open(path))[None] for path in sorted(folder.iterdir())]
    assert torch.equal(rows_of(folder), in_order(expected))


class TestPreprocessing:
    def test_a_timm_model_gives_its_own(self) -> None:
        model = small_vit()
        with pytest.raises(ConfigError, match=r"VisionTransformer does not say how .* pass a qpass\.data\.ImageTransform"):
            qpass.images(PILLOW, model)
        model.pretrained_cfg = {"input_size": (3, 32, 32), "crop_pct": 0.9, "mean": (0.5,) * 3, "std": (0.5,) * 3}
        expected = ImageTransform(crop=32, resize=35, mean=(0.5,) * 3, std=(0.5,) * 3)(PILLOW[0])
        assert torch.equal(next(iter(qpass.images(PILLOW[:1], model)))[0], expected)

    @pytest.mark.parametrize("kind", [v2.Compose, nn.Sequential])
    def test_a_transform_of_torchvision(self, kind: Any, tmp_path: Path) -> None:
        steps = [v2.CenterCrop(32), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
        transform = kind(steps) if kind is v2.Compose else kind(*steps)
        PILLOW[0].save(tmp_path / "a.png")
        for source in (PILLOW[:1], tmp_path):
            assert torch.equal(next(iter(qpass.images(source, transform)))[0], transform(PILLOW[0]))

    def test_a_processor_names_the_input(self, tmp_path: Path) -> None:
        processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
        PILLOW[0].save(tmp_path / "a.png")
        expected = processor(images=PILLOW[0], return_tensors="pt")["pixel_values"]
        for source in (PILLOW[:1], tmp_path):
            (batch,) = qpass.images(source, processor)
            assert list(batch) == ["pixel_values"]
            assert torch.equal(batch["pixel_values"], expected)

    def test_gray_images_of_sixteen_bits_are_scaled(self) -> None:
        deep = Image.fromarray(np.full((32, 32), 257 * 100, np.uint16))
        plain = Image.new("L", (32, 32), 100)
        found, expected = (next(iter(qpass.images([image], TRANSFORM))) for image in (deep, plain))
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("source", "preprocessing", "message"),
    [
        ([], TRANSFORM, "images: no images; expected at least one"),
        (5, TRANSFORM, "images: got a int; expected a path, a dataset, or PIL images"),
        (["a"], TRANSFORM, r"images\[0\]: is a str without a PIL image"),
        ([Image.new("F", (8, 8))], TRANSFORM, r"images\[0\]: holds floats, whose range is unknown"),
        (PILLOW, lambda image: 5, r"images\[\d\]: preprocessing gave a int; expected a tensor"),
        (PILLOW, "imagenet", "images, preprocessing: got a str; expected an ImageTransform"),
        ({"a": PILLOW[0]}, TRANSFORM, "images: got a dict; expected a path, a dataset, or PIL images"),
        (
            [PILLOW[0], PILLOW[0].rotate(90, expand=True)],
            v2.PILToTensor(),
            r"images: \[\d\]: has shape \(3, .*; resize and crop",
        ),
        ([PILLOW[0], PILLOW[0].convert("L")], v2.PILToTensor(), r"has shape \(\d, 40, 50\) after .* convert them to one mode"),
    ],
)
def test_what_gives_no_images_is_named(source: Any, preprocessing: Any, message: str) -> None:
    with pytest.raises((DataError, ConfigError), match=message):
        list(qpass.images(source, preprocessing))


def test_a_file_of_which_preprocessing_makes_no_tensor_is_named(tmp_path: Path) -> None:
    PILLOW[0].save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: preprocessing gave a ndarray; expected a tensor"):
        list(qpass.images(tmp_path, np.asarray))


@pytest.mark.parametrize("source", [PILLOW, iter(PILLOW)], ids=["list", "iterator"])
@pytest.mark.parametrize(
    "options", [{"count": -1}, {"count": 0}, {"count": "3"}, {"batch_size": 0}, {"batch_size": 1.5}], ids=str
)
def test_counts_are_whole_numbers_above_0(source: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(options))}: got .* expected a whole number above 0"):
        qpass.images(source, TRANSFORM, **options)
