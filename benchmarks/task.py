"""A network with real weights, samples that may calibrate it, and a score of each of others."""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import provenance
import torch
from assets import assets
from PIL import Image
from stored_rows import Drawn
from torch import Tensor, nn

from qpass.data import draw_samples
from qpass.data.decode import decode_image
from qpass.data.image_source import ImageSource
from qpass.data.images import IMAGE_SUFFIXES

#: A network, or its file: a batch to outputs.
Predict = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Task:
    """A loaded network.

    Attributes:
        model: The float network.
        pool: Samples that may calibrate; none of them is scored. Labels spread a draw over classes.
        counts: How many calibrate a recipe that learns nothing, and one that learns.
        batch: Samples in a calibration batch.
        score: Returns the score of each sample that evaluates.
        scored_in_torch: Whether the quantized graph is scored too.
        verified: Samples that a file is verified with.
    """

    model: nn.Module
    pool: ImageSource
    counts: tuple[int, int]
    batch: int
    score: Callable[[Predict], list[float]]
    scored_in_torch: bool = True
    verified: int = 8

    def calibration(self, count: int, seed: int = 0) -> tuple[list[Tensor], Drawn]:
        """Returns batches of samples drawn at random, spread over classes, and which they are."""
        groups: Sequence[int] = [0] * len(self.pool) if self.pool.labels is None else self.pool.labels
        drawn = draw_samples(groups, count, seed=seed)
        names = [self.pool.names[i] for i in drawn]
        batches = list(torch.stack([self.pool.load(i) for i in drawn]).split(self.batch))
        return batches, Drawn(len(drawn), len(self.pool), seed, provenance.digest(names))


@dataclass(frozen=True)
class Network:
    """What a page says of a network, and how it is loaded.

    Attributes:
        title: Heads its column and page.
        score: What is measured of each sample; a row has the mean.
        unit: Of scores: ``%`` or ``dB``.
        description: The network, what calibrates it and what it is evaluated on.
        modules: Files of ``benchmarks/`` that a score depends on.
        load: Loads it.
        against_float: Whether scores compare with float's outputs, so that float itself has none.
    """

    title: str
    score: str
    unit: str
    description: str
    modules: tuple[str, ...]
    load: Callable[[], Task]
    against_float: bool = False


def zipped_images(path: Path, convert: Callable[[Image.Image], Tensor]) -> ImageSource:
    """Opens the images of a zip without labels."""
    archive = zipfile.ZipFile(path)
    names = sorted(name for name in archive.namelist() if name.lower().endswith(IMAGE_SUFFIXES))
    if not names:
        raise click.ClickException(f"{path} holds no image")
    return ImageSource(str(path), names, None, lambda i: convert(decode_image(archive.read(names[i]), "RGB", names[i])))


def asset_module(name: str) -> ModuleType:
    """Imports ``model.py`` of an asset."""
    spec = importlib.util.spec_from_file_location(name, assets() / name / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def decibels(reference: Tensor, found: Tensor) -> float:
    """Returns the power of a reference over that of the difference to it, at most 100 dB."""
    error = (reference - found).double().square().mean()
    return min(100.0, (10 * torch.log10(reference.double().square().mean() / error.clamp_min(1e-30))).item())
