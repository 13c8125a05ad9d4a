from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from qpass.data import open_modelnet40, open_shapenet_part, regular_file
from qpass.errors import DataError


def write(path: Path, table: np.ndarray, delimiter: str = " ") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, table, fmt="%.6f", delimiter=delimiter)


@pytest.fixture
def modelnet(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "modelnet40_shape_names.txt").write_text("bathtub\nnight_stand\n")
    (tmp_path / "modelnet40_test.txt").write_text("night_stand_0001\nbathtub_0003\n")
    for kind, name in (("night_stand", "night_stand_0001"), ("bathtub", "bathtub_0003")):
        write(tmp_path / kind / f"{name}.txt", rng.normal(3, 2, (12, 6)), ",")
    return tmp_path


def test_modelnet40(modelnet: Path) -> None:
    data = open_modelnet40(modelnet, points=10)
    assert data.clouds.shape == (2, 10, 6)
    assert data.kinds.tolist() == [1, 0], "a class may have an underscore"
    assert data.parts is None
    xyz = data.clouds[..., :3]
    torch.testing.assert_close(xyz.mean(1), torch.zeros(2, 3), rtol=0, atol=1e-6)
    torch.testing.assert_close(xyz.norm(dim=2).amax(1), torch.ones(2))
    raw = np.loadtxt(modelnet / "bathtub" / "bathtub_0003.txt", delimiter=",")
    np.testing.assert_allclose(data.clouds[1, :, 3:].numpy(), raw[:10, 3:], rtol=1e-6)


def test_modelnet40_errors(modelnet: Path) -> None:
    with pytest.raises(DataError, match=r"modelnet40_train.txt: no such file.*modelnet40_normal_resampled.zip"):
        open_modelnet40(modelnet, split="train")
    with pytest.raises(DataError, match=r"night_stand_0001.txt: holds \(12, 6\).*at least 13 lines of 6 numbers"):
        open_modelnet40(modelnet, points=13)
    (modelnet / "bathtub" / "bathtub_0003.txt").write_text("1,2,x\n")
    with pytest.raises(DataError, match=r"bathtub_0003.txt: cannot be read"):
        open_modelnet40(modelnet, points=10)
    (modelnet / "modelnet40_test.txt").write_text("chair_0001\n")
    with pytest.raises(DataError, match="unknown class 'chair'"):
        open_modelnet40(modelnet)


def test_files_are_bounded(modelnet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regular_file, "LARGEST_TABLE", 100)
    with pytest.raises(DataError, match=r"night_stand_0001.txt: has \d+ bytes; expected a text file of points"):
        open_modelnet40(modelnet, points=10)


@pytest.fixture
def shapenet(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    (tmp_path / "synsetoffset2category.txt").write_text("Airplane\t02691156\nMug\t03797390\n")
    for synset, name, points in (("02691156", "a", 30), ("03797390", "b", 5)):
        table = np.concatenate([rng.normal(size=(points, 6)), rng.integers(4, size=(points, 1))], 1)
        write(tmp_path / synset / f"{name}.txt", table)
    (tmp_path / "train_test_split").mkdir()
    (tmp_path / "train_test_split" / "shuffled_test_file_list.json").write_text(json.dumps(["shape_data/03797390/b"]))
    return tmp_path


def test_shapenet_part(shapenet: Path) -> None:
    data = open_shapenet_part(shapenet, split=None, points=20)
    assert data.clouds.shape == (2, 20, 6)
    assert data.parts is not None
    assert data.parts.shape == (2, 20)
    assert data.kinds.tolist() == [0, 1]
    assert data.kind_names == ("Airplane", "Mug")
    normals = data.clouds[0, :, 3:]
    raw = torch.from_numpy(np.loadtxt(shapenet / "02691156" / "a.txt")).float()
    for normal, part in zip(normals, data.parts[0], strict=True):
        match = (raw[:, 3:6] - normal).abs().sum(1).argmin()
        assert raw[match, 6] == part, "labels stay with their points"
    assert len({tuple(row.tolist()) for row in normals}) == 20, "no point twice where there are enough"
    again = open_shapenet_part(shapenet, split=None, points=20)
    assert torch.equal(again.clouds, data.clouds)


def test_shapenet_part_splits_and_errors(shapenet: Path) -> None:
    assert open_shapenet_part(shapenet, points=4).kinds.tolist() == [1]
    with pytest.raises(DataError, match=r"shuffled_val_file_list.json: no such file"):
        open_shapenet_part(shapenet, split="val")
    (shapenet / "03797390" / "b.txt").write_text("1 2 3\n")
    with pytest.raises(DataError, match=r"b.txt: holds \(1, 3\).*7 numbers"):
        open_shapenet_part(shapenet)
    (shapenet / "03797390" / "b.txt").write_text("nan 0 0 0 0 0 1\n")
    with pytest.raises(DataError, match="NaN or infinite"):
        open_shapenet_part(shapenet)
