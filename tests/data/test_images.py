from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from qpass.data import ImageTransform, image_batches, open_images
from qpass.errors import DataError

TRANSFORM = ImageTransform(crop=4, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six grey images of values 0, 40, ... 200 in two classes."""
    for i in range(6):
        (tmp_path / "data" / ("cat" if i < 3 else "dog")).mkdir(parents=True, exist_ok=True)
        path = tmp_path / "data" / ("cat" if i < 3 else "dog") / f"{i}.png"
        Image.new("RGB", (6, 8), (40 * i,) * 3).save(path)
    return tmp_path / "data"


def test_an_image_folder(folder: Path) -> None:
    source = open_images(folder, TRANSFORM)
    assert source.labels == [0, 0, 0, 1, 1, 1]
    batches = list(image_batches(source, 4))
    assert [images.shape for images, _ in batches] == [(4, 3, 4, 4), (2, 3, 4, 4)]
    torch.testing.assert_close(batches[0][0][2, 0, 0, 0].item(), (80 / 255 - 0.5) / 0.25)
    assert batches[1][1].tolist() == [1, 1]


def test_a_limit_spreads_over_the_source(folder: Path) -> None:
    ((images, labels),) = image_batches(open_images(folder, TRANSFORM), 8, limit=3)
    assert labels.tolist() == [0, 0, 1]
    assert len(images) == 3


def test_a_zip_with_labels_beside_or_inside(folder: Path, tmp_path: Path) -> None:
    table = "file,label\n" + "".join(f"{i}.png,{i * 10}\n" for i in range(6))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in folder.rglob("*.png"):
            archive.write(file, file.name)
        archive.writestr("labels.csv", table)
    assert open_images(tmp_path / "a.zip", TRANSFORM).labels == [0, 10, 20, 30, 40, 50]
    source = open_images(tmp_path / "a.zip", TRANSFORM)
    assert torch.equal(source.load(5), open_images(folder, TRANSFORM).load(5))


def test_arrays(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((5, 3, 4, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(5))
    assert open_images(tmp_path / "x.npy", TRANSFORM).labels is None
    source = open_images(tmp_path / "x.npz", TRANSFORM)
    assert source.labels == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(source.load(3).numpy(), x[3])


def test_resize_then_crop(folder: Path) -> None:
    image = ImageTransform(crop=12, resize=12)(Image.new("L", (6, 8)))
    assert image.shape == (3, 12, 12)


def test_bad_sources_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_images(tmp_path / "none", TRANSFORM)
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"files of kind '\.tar' are not read"):
        open_images(tmp_path / "a.tar", TRANSFORM)
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(DataError, match=r"bad\.zip: cannot be opened"):
        open_images(tmp_path / "bad.zip", TRANSFORM)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        open_images(tmp_path / "empty", TRANSFORM)
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match=r"x\.npy: cannot be read"):
        open_images(tmp_path / "x.npy", TRANSFORM)
    (folder / "cat" / "1.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(DataError, match=r"1\.png: is not a readable image"):
        list(image_batches(open_images(folder, TRANSFORM), 6))


def test_an_array_never_runs_code(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"x\.npy: cannot be read"):
        open_images(tmp_path / "x.npy", TRANSFORM)


def test_labels_that_do_not_fit_are_refused(folder: Path) -> None:
    (folder / "labels.csv").write_text("file,label\n0.png,1\n")
    with pytest.raises(DataError, match=r"labels\.csv: no label for 1\.png \(and 4 more\)"):
        open_images(folder, TRANSFORM)
    (folder / "labels.csv").write_text("name;class\n0.png;1\n")
    with pytest.raises(DataError, match="expected the header file,label"):
        open_images(folder, TRANSFORM)
