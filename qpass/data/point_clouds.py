"""Reads point clouds in their usual layout: ModelNet40 (normals, resampled) and ShapeNetPart."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qpass.data.regular_file import read_text
from qpass.errors import DataError

_MODELNET40 = "ModelNet40 with normals is modelnet40_normal_resampled.zip of https://github.com/charlesq34/pointnet2"
_SHAPENET_PART = "ShapeNetPart is shapenetcore_partanno_segmentation_benchmark_v0_normal.zip of the same authors"


@dataclass(frozen=True)
class PointClouds:
    """Objects in a fixed order.

    Attributes:
        clouds: Coordinates in the unit sphere, and normals: (objects, points, 6) float32.
        kinds: Class of each object: (objects,) int64.
        kind_names: Class names.
        parts: Part of each point, numbered across all classes: (objects, points) int64, or None.
    """

    clouds: Tensor
    kinds: Tensor
    kind_names: tuple[str, ...]
    parts: Tensor | None = None

    def __len__(self) -> int:
        return len(self.clouds)


def open_modelnet40(folder: str | Path, *, split: str = "test", points: int = 1024) -> PointClouds:
    """Reads ModelNet40.

    The files are ``modelnet40_shape_names.txt``, ``modelnet40_<split>.txt`` and
    ``<class>/<object>.txt`` (x,y,z,nx,ny,nz).

    Args:
        folder: The folder ``modelnet40_normal_resampled``.
        split: ``"train"`` or ``"test"``.
        points: Number of points per object; takes the first ones, as is common.

    Raises:
        DataError: If a file is missing, has too few points, or is invalid.
    """
    folder = Path(folder)
    names = _lines(folder / "modelnet40_shape_names.txt", _MODELNET40)
    objects = _lines(folder / f"modelnet40_{split}.txt", _MODELNET40)
    kinds = [name.rpartition("_")[0] for name in objects]
    unknown = sorted(set(kinds) - set(names))
    if unknown:
        raise DataError(f"lists the unknown class {unknown[0]!r}", where=f"modelnet40_{split}.txt", expected=", ".join(names))
    paths = [folder / kind / f"{name}.txt" for kind, name in zip(kinds, objects, strict=True)]
    tables = [_table(path, 6, points, ",") for path in paths]
    clouds = torch.stack([_in_unit_sphere(table[:points]) for table in tables])
    return PointClouds(clouds, torch.tensor([names.index(kind) for kind in kinds]), tuple(names))


def open_shapenet_part(folder: str | Path, *, split: str | None = "test", points: int = 2048, seed: int = 0) -> PointClouds:
    """Reads ShapeNetPart.

    The files are ``synsetoffset2category.txt`` and ``<synset>/<object>.txt`` (x y z nx ny nz part).

    Args:
        folder: The folder ``shapenetcore_partanno_segmentation_benchmark_v0_normal``, or one with the
            same layout.
        split: ``"train"``, ``"val"`` or ``"test"`` of
            ``train_test_split/shuffled_<split>_file_list.json``; None takes all.
        points: Number of points sampled per object, with replacement if it has fewer.
        seed: Random seed of the sampling.

    Raises:
        DataError: If a file is missing or invalid.
    """
    folder = Path(folder)
    categories = [line.split() for line in _lines(folder / "synsetoffset2category.txt", _SHAPENET_PART)]
    synsets = [synset for _, synset in categories]
    paths = [path for synset in synsets for path in sorted((folder / synset).glob("*.txt"))]
    if split is not None:
        list_path = folder / "train_test_split" / f"shuffled_{split}_file_list.json"
        wanted = {tuple(entry.split("/")[-2:]) for entry in _read(list_path, json.loads, _SHAPENET_PART)}
        paths = [path for path in paths if (path.parent.name, path.stem) in wanted]
    if not paths:
        raise DataError("holds no objects", where=str(folder), expected="<synset>/<object>.txt", hint=_SHAPENET_PART)
    draw = np.random.default_rng(seed)
    tables = []
    for path in paths:
        table = _table(path, 7, 1, None)
        tables.append(table[draw.choice(len(table), points, replace=len(table) < points)])
    clouds = torch.stack([_in_unit_sphere(table[:, :6]) for table in tables])
    kinds = torch.tensor([synsets.index(path.parent.name) for path in paths])
    parts = torch.from_numpy(np.stack([table[:, 6] for table in tables]).astype(np.int64))
    return PointClouds(clouds, kinds, tuple(name for name, _ in categories), parts)


def _in_unit_sphere(table: np.ndarray) -> Tensor:
    """Centres the points and scales the farthest to distance one; normals are unchanged."""
    xyz = table[:, :3] - table[:, :3].mean(0)
    xyz = xyz / np.linalg.norm(xyz, axis=1).max().clip(1e-12)
    return torch.from_numpy(np.concatenate([xyz, table[:, 3:6]], 1).astype(np.float32))


def _lines(path: Path, source: str) -> list[str]:
    lines: Sequence[str] = _read(path, str.splitlines, source)
    return [line.strip() for line in lines if line.strip()]


def _read(path: Path, parse: Callable[[str], Any], source: str) -> Any:
    if not path.is_file():
        raise DataError("no such file", where=str(path), expected="the data set's own layout", hint=source)
    try:
        return parse(read_text(path, "text in UTF-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"cannot be read: {error}", where=str(path)) from error


def _table(path: Path, columns: int, rows: int, delimiter: str | None) -> np.ndarray:
    if not path.is_file():
        raise DataError("no such file", where=str(path), expected="a text file of points")
    try:
        table = np.loadtxt(io.StringIO(read_text(path, "a text file of points")), delimiter=delimiter, ndmin=2)
    except ValueError as error:
        raise DataError(f"cannot be read: {error}", where=str(path), expected=f"{columns} numbers in each line") from error
    if table.ndim != 2 or table.shape[1] != columns or len(table) < rows:
        raise DataError(f"holds {table.shape}", where=str(path), expected=f"at least {rows} lines of {columns} numbers")
    if not np.isfinite(table).all():
        raise DataError("NaN or infinite values", where=str(path))
    return table
