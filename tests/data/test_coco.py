from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from qpass.data import CocoImages
from qpass.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images; a triangle given as a polygon and a block given as runs."""
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[1, 2] = (255, 0, 51)
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    things = [
        {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 1, 4, 3], "area": 6, "iscrowd": 0,
         "segmentation": [[1, 1, 5, 1, 1, 4]]},
        {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 2, 6], "area": 12, "iscrowd": 1,
         "segmentation": {"size": [6, 8], "counts": [0, 12, 36]}},
    ]  # fmt: skip
    size = {"width": 8, "height": 6}
    images = [{"id": 9, "file_name": "b.png", **size}, {"id": 7, "file_name": "a.png", **size}]
    content = {"images": images, "annotations": things, "categories": [{"id": 1, "name": "x"}, {"id": 3, "name": "y"}]}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return tmp_path


def test_images_boxes_and_masks(folder: Path) -> None:
    data = CocoImages(folder)
    assert len(data) == 2
    image, target = data[0]
    assert image.shape == (3, 6, 8)
    torch.testing.assert_close(image[:, 1, 2], torch.tensor([1.0, 0.0, 0.2]))
    assert target["boxes"].tolist() == [[1, 1, 5, 4], [0, 0, 2, 6]]
    assert target["labels"].tolist() == [3, 1]
    assert target["iscrowd"].tolist() == [0, 1]
    assert target["masks"].shape == (2, 6, 8)
    assert target["masks"][1].nonzero()[:, 1].unique().tolist() == [0, 1], "runs go down the columns"
    assert 3 <= target["masks"][0].sum() <= 9


def test_an_image_without_objects(folder: Path) -> None:
    _, target = CocoImages(folder)[1]
    assert target["boxes"].shape == (0, 4)
    assert target["masks"].shape == (0, 6, 8)


def test_what_is_missing_or_broken_is_named(folder: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.*does not exist"):
        CocoImages(folder / "nowhere")
    with pytest.raises(DataError, match=r"instances_val2017.json.*does not exist"):
        CocoImages(folder, folder / "instances_val2017.json")
    (folder / "broken.json").write_text("{")
    with pytest.raises(DataError, match=r"broken.json: cannot be read.*COCO's format"):
        CocoImages(folder, folder / "broken.json")
    (folder / "a.png").unlink()
    with pytest.raises(DataError, match=r"a.png: does not exist"):
        CocoImages(folder)[0]
