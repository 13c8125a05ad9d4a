"""Datasets of the ``datasets`` library, in memory and on disk."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import qpass
from qpass.data import ImageTransform, image_batches, open_images
from qpass.data.saved_dataset import is_dataset, is_saved_dataset, open_saved_dataset
from qpass.errors import DataError
from tests.pretrained import write_images

TRANSFORM = ImageTransform(crop=32, resize=36)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", 4)


@pytest.fixture
def dataset(folder: Path) -> Any:
    """Four images with labels, and a column that is neither."""
    datasets = pytest.importorskip("datasets", reason="needs datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"]), "text": datasets.Value("string")}
    )
    rows = {"image": [str(path) for path in sorted(folder.iterdir())], "label": [0, 1, 1, 0], "text": list("abcd")}
    return datasets.Dataset.from_dict(rows, features=features)


def test_a_dataset_on_disk_is_read_as_its_images(dataset: Any, folder: Path, tmp_path: Path) -> None:
    dataset.save_to_disk(tmp_path / "saved")
    source = open_images(tmp_path / "saved", TRANSFORM)
    assert source.labels == [0, 1, 1, 0]
    ((images, labels),) = image_batches(source, 8)
    expected = torch.stack([TRANSFORM(Image.open(path)) for path in sorted(folder.iterdir())])
    assert torch.equal(images, expected)
    assert labels is not None
    assert labels.tolist() == [0, 1, 1, 0]


def test_a_dataset_in_memory(dataset: Any) -> None:
    assert is_dataset(dataset)
    (batch,) = qpass.images(dataset, TRANSFORM)
    assert batch.shape == (4, 3, 32, 32)
    first, second = (qpass.images(dataset, TRANSFORM, count=2, seed=seed).source for seed in (0, 1))
    assert sorted(first.labels or ()) == sorted(second.labels or ()) == [0, 1], "spread over the classes"


def test_what_is_no_single_dataset_of_images_is_refused(dataset: Any, tmp_path: Path) -> None:
    import datasets

    with pytest.raises(DataError, match=r"has 0 columns of images among \['label', 'text'\]; expected one"):
        qpass.images(dataset.remove_columns("image"), TRANSFORM)
    splits = {"train": dataset, "test": dataset.select(range(2))}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "both")
    with pytest.raises(DataError, match="both: holds the splits test, train; give the folder of one of them"):
        open_images(tmp_path / "both", TRANSFORM)
    assert len(open_images(tmp_path / "both" / "test", TRANSFORM)) == 2
    (tmp_path / "both" / "test" / "dataset_info.json").write_text("{")
    with pytest.raises(DataError, match="test: cannot be opened"):
        open_images(tmp_path / "both" / "test", TRANSFORM)


def test_the_extra_is_named_where_datasets_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_saved_dataset(folder)
    (folder / "state.json").write_text("{}")
    assert is_saved_dataset(folder)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"images: needs datasets, which is not installed; pip install 'qpass\[datasets\]'"):
        open_saved_dataset(folder, TRANSFORM)
    assert not is_dataset([])
