"""Reads images and arrays from disk: a folder, an ImageFolder, a zip with labels.csv, .npy or .npz."""

from __future__ import annotations

import posixpath
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qpass.config.fields import at_least_one, optional
from qpass.data.decode import LARGEST_IMAGE, image_bytes
from qpass.data.image_source import Decodes, ImageSource
from qpass.data.labels import labels_that_fit, read_labels
from qpass.data.regular_file import LARGEST_TABLE, read_text
from qpass.data.saved_dataset import is_saved_dataset, open_saved_dataset
from qpass.errors import DataError

_TABLE = "a table in UTF-8"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def open_images(path: str | Path, transform: Decodes, *, needs_labels: bool = True) -> ImageSource:
    """Opens a folder, an ImageFolder, a dataset of ``datasets`` on disk, a zip, .npy or .npz.

    Labels come from ``labels.csv`` (header ``file,label``) inside or next to the folder or zip, from
    the sorted subfolder names of an ImageFolder, or from ``y`` of an .npz whose samples are ``x``.
    The table lists each image by its path relative to the folder or zip, or by its base name if
    unique. Arrays are used unchanged, batch dim first.

    Args:
        path: The path.
        transform: What turns image files into tensors.
        needs_labels: Whether a table that does not fit the images is refused; False warns, and takes
            the images without labels.

    Raises:
        DataError: If the path is missing, has another file type, or holds no sample, or labels are
            needed and do not fit.
    """
    path = Path(path)
    if not path.exists():
        raise DataError("does not exist", where=str(path), expected="a folder, .zip, .npy or .npz")
    if is_saved_dataset(path):
        source = open_saved_dataset(path, transform)
    elif path.is_dir():
        source = _open_folder(path, transform, needs_labels)
    elif path.suffix == ".zip":
        source = _open_zip(path, transform, needs_labels)
    elif is_array(path):
        source = _open_array(path)
    else:
        hint = "are images and checkpoint swapped?" if path.suffix in (".safetensors", ".pt", ".pth", ".bin", ".ckpt") else ""
        raise DataError(
            f"files of kind {path.suffix!r} are not read", where=str(path), expected="a folder, .zip, .npy or .npz", hint=hint
        )
    if not len(source):
        raise DataError("holds no image", where=str(path), expected=f"files ending in {', '.join(IMAGE_SUFFIXES)}")
    return source


def is_array(path: Path) -> bool:
    """Returns whether a path names a file of arrays, which are used unchanged."""
    return path.suffix in (".npy", ".npz")


def image_batches(source: ImageSource, batch_size: int, *, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yields (images, labels): (batch, ...) float32 and (batch,) int64, or None without labels.

    Args:
        source: Images to read.
        batch_size: Images per batch; the last batch may be smaller.
        limit: Take this many images, spread evenly over the source; None takes all.

    Raises:
        ConfigError: If ``batch_size`` or ``limit`` is not a positive integer.
        DataError: If an image of a batch has another shape than the first.
    """
    at_least_one(batch_size, "batch_size")
    optional(at_least_one)(limit, "limit")
    count = len(source) if limit is None else min(limit, len(source))
    chosen = [i * len(source) // count for i in range(count)]
    for start in range(0, count, batch_size):
        indices = chosen[start : start + batch_size]
        labels = None if source.labels is None else torch.tensor([source.labels[i] for i in indices])
        yield _stack(source, indices), labels


def _stack(source: ImageSource, indices: Sequence[int]) -> Tensor:
    """Returns images as one batch."""
    loaded = [source.load(i) for i in indices]
    for index, image in zip(indices, loaded, strict=True):
        if image.shape != loaded[0].shape:
            shape, first = tuple(image.shape), tuple(loaded[0].shape)
            raise DataError(
                f"has shape {shape} after preprocessing",
                where=f"{source.where}: {source.names[index]}",
                expected=f"{first}, as of {source.names[indices[0]]}",
                hint="resize and crop all images to one size, and convert them to one mode, such as RGB",
            )
    return torch.stack(loaded)


def _open_folder(path: Path, transform: Decodes, needs_labels: bool) -> ImageSource:
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if odd := next((file for file in files if not file.is_file()), None):
        raise DataError("is not a file", where=str(odd), expected="an image", hint="move it away, or rename it")
    table = next((t for t in (path / "labels.csv", path.parent / "labels.csv") if t.exists()), None)
    labels: list[int] | None = None
    names = [file.relative_to(path).as_posix() for file in files]
    if table is not None:
        read = partial(read_labels, read_text(table, _TABLE), names, str(table), lambda name: f"{path.name}/{name}")
        labels = labels_that_fit(read, needed=needs_labels)
    elif files and all(file.parent.parent == path for file in files):
        classes = sorted({file.parent.name for file in files})
        labels = [classes.index(file.parent.name) for file in files]
    return ImageSource(str(path), names, labels, lambda i: transform.decode(image_bytes(files[i]), str(files[i])))


def _open_zip(path: Path, transform: Decodes, needs_labels: bool) -> ImageSource:
    try:
        archive = zipfile.ZipFile(path)
        names = sorted(n for n in archive.namelist() if Path(n).suffix.lower() in IMAGE_SUFFIXES)
        tables = [n for n in archive.namelist() if PureWindowsPath(n).name == "labels.csv"]  # handles both separators
        if len(tables) > 1:
            raise DataError(f"has {tables[0]} and {tables[1]}", where=str(path), expected="one labels.csv")
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise DataError(f"has the entry {twice[0]} twice", where=str(path), expected="each image once")
        inside = tables[0] if tables else None
        text = _unpack(archive, inside, f"{path}/{inside}", LARGEST_TABLE).decode() if inside else None
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise DataError(f"cannot be opened: {error}", where=str(path), expected="a zip of images") from error
    beside = path.parent / "labels.csv"
    if text is None and beside.exists():
        text = read_text(beside, _TABLE)
    where = f"{path}/{inside}" if inside else str(beside)
    folder = PureWindowsPath(inside).parent.as_posix() if inside else ""
    also = lambda name: posixpath.relpath(name, folder) if inside else f"{path.stem}/{name}"  # noqa: E731
    labels = None if text is None else labels_that_fit(partial(read_labels, text, names, where, also), needed=needs_labels)

    def load(i: int) -> Tensor:
        where = f"{path}/{names[i]}"
        return transform.decode(_unpack(archive, names[i], where, LARGEST_IMAGE), where)

    return ImageSource(str(path), names, labels, load)


def _unpack(archive: zipfile.ZipFile, name: str, where: str, most: int) -> bytes:
    """Returns an entry of at most ``most`` bytes, checking both the declared and the actual size."""
    try:
        content = None
        if archive.getinfo(name).file_size <= most:
            with archive.open(name) as file:
                content = file.read(most + 1)
    except Exception as error:  # zipfile, zlib and struct raise errors of their own
        raise DataError(f"cannot be read: {error}", where=where, hint="pack the images again") from error
    if content is None or len(content) > most:
        raise DataError("is too large unpacked", where=where, expected=f"at most {most} bytes")
    return content


def _open_array(path: Path) -> ImageSource:
    try:
        content = np.load(path, mmap_mode="r" if path.suffix == ".npy" else None, allow_pickle=False)
        x = content if path.suffix == ".npy" else content["x"]
        y = None if path.suffix == ".npy" or "y" not in content else content["y"]
    except Exception as error:  # zipfile, zlib and Python's parser raise errors of their own
        raise DataError(
            f"cannot be read: {error}", where=str(path), expected="an array, or an .npz with x and perhaps y"
        ) from error
    if not x.ndim or x.dtype.kind not in "biuf":
        raise DataError(f"holds values of {x.dtype}, shape {x.shape}", where=str(path), expected="numbers, the batch first")
    labels = None if y is None else _array_labels(y, len(x), str(path))
    names = [f"{path.name}[{i}]" for i in range(len(x))]
    return ImageSource(str(path), names, labels, lambda i: torch.from_numpy(np.array(x[i])))


def _array_labels(y: Any, count: int, where: str) -> list[int]:
    whole = y.dtype.kind in "iu" or (y.dtype.kind == "f" and bool((y == np.floor(y)).all()))
    if y.shape != (count,) or not whole or bool((y < 0).any()):
        raise DataError(
            f"y has {y.dtype} of shape {y.shape}", where=where, expected=f"a whole number from 0 for each of {count} samples"
        )
    return [int(label) for label in y]
