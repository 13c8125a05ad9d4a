"""Scores of the networks that are no classifiers."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from lanes import against_float, course
from PIL import Image
from super_resolution import in_tiles, luma, psnr
from task import decibels, zipped_images


@pytest.mark.parametrize("size", [(64, 64), (57, 86), (100, 49)])
def test_tiles_make_the_image_that_a_local_network_makes_at_once(size: tuple[int, int]) -> None:
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    kernel = torch.rand(3, 3, 5, 5, generator=torch.Generator().manual_seed(1))

    def network(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(torch.nn.functional.conv2d(x, kernel, padding=2), scale_factor=2, mode="nearest")

    padded = torch.from_numpy(np.pad(image.numpy(), ((0, 0), (8, 8), (8, 8)), mode="symmetric"))
    whole = network(padded[None])[0, :, 16:-16, 16:-16]
    assert in_tiles(network, image).shape == (3, 2 * size[0], 2 * size[1])
    torch.testing.assert_close(in_tiles(network, image), whole)


def test_luma_and_psnr() -> None:
    white, grey = torch.ones(3, 8, 8), torch.full((3, 8, 8), 128 / 255)
    assert luma(white).shape == (4, 4)
    torch.testing.assert_close(luma(white), torch.full((4, 4), 235.0, dtype=torch.float64))
    assert psnr(luma(white), luma(grey)) == pytest.approx(20 * np.log10(255 / (219 * 127 / 255)))


def test_decibels() -> None:
    reference = torch.tensor([3.0, 4.0])
    assert decibels(reference, reference) == 100
    assert decibels(reference, reference * 1.1) == pytest.approx(20)


def test_lanes_that_are_lost_or_moved_lower_the_score() -> None:
    logits = torch.tensor([[0.0, 5.0], [5.0, 0.0], [0.0, 5.0]])
    curves = torch.tensor([[0.3, 0.9, 0.0, 0.1, 0.0, 0.6, 0.2, 0.1], [0.0] * 8, [0.3, 0.9, 0.01, 0.1, 0.0, 0.4, 0.2, 0.1]])
    y = torch.tensor([[0.5]])
    assert course(curves[:1], y).item() == pytest.approx(0.6 + 0.2 * 0.5 - 0.1)
    assert course(curves[2:], y).item() == pytest.approx(0.01 / 0.4**2 + 0.4 + 0.2 * 0.5 - 0.1)
    moved, lost, ignored = curves.clone(), logits.clone(), curves.clone()
    moved[0, 5] += 0.01
    lost[0] = torch.tensor([5.0, 0.0])
    ignored[1] += 1
    assert against_float(logits, curves, logits, ignored) == 100, "float sees no lane there"
    assert 20 < against_float(logits, curves, logits, moved) < 50
    assert against_float(logits, curves, lost, curves) < 10


def test_images_of_a_zip_are_found_by_any_usual_suffix(tmp_path: Path) -> None:
    pixels = io.BytesIO()
    Image.new("RGB", (4, 4), (255, 0, 0)).save(pixels, "PNG")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for name in ("b.JPEG", "a.png", "labels.csv"):
            archive.writestr(name, pixels.getvalue())
    found = zipped_images(tmp_path / "images.zip", lambda image: torch.tensor(image.getpixel((0, 0))))
    assert found.names == ["a.png", "b.JPEG"]
    assert found.load(1).tolist() == [255, 0, 0]
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as archive:
        archive.writestr("labels.csv", "")
    with pytest.raises(click.ClickException, match="no image"):
        zipped_images(tmp_path / "none.zip", lambda image: torch.zeros(1))
