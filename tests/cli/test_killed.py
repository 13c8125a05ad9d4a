"""A run that is killed, at whatever moment, leaves no half a file, and goes on to the same bits."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

RECIPE = "preset: aiqvit-w4a4\nreconstruction: {ranks: [2, 4], search_steps: 20, steps: 60, batch_size: 8}\n"


def start(folder: Path, output: Path) -> subprocess.Popen[bytes]:
    """Starts the command line in a process of its own."""
    options = ["--calib", folder / "images.npz", "--config", folder / "recipe.yaml", "--output", output]
    options += ["--batch-size", "8", "--no-verify"]
    command = [sys.executable, "-W", "ignore", "-m", "qpass", "quantize", "tests.models:small_vit", *map(str, options)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(folder: Path, output: Path) -> dict[str, bytes]:
    """Runs the command to its end and returns what it wrote."""
    process = start(folder, output)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    assert {path.name for path in output.iterdir()} == {
        *("model.onnx", "model.qpass", "float.onnx"),
        *("report.html", "report.json", "settings.json"),
    }
    return {name: (output / name).read_bytes() for name in ("model.onnx", "model.qpass")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("killed")
    x = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    np.savez(path / "images.npz", x=x.numpy())
    (path / "recipe.yaml").write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def whole(folder: Path) -> tuple[dict[str, bytes], float]:
    """What a run writes that nobody kills, and its seconds."""
    begun = time.monotonic()
    return finish(folder, folder / "whole"), time.monotonic() - begun


def check(folder: Path, whole: tuple[dict[str, bytes], float], share: float) -> None:
    expected, seconds = whole
    output = folder / f"killed-{share}"
    process = start(folder, output)
    time.sleep(share * seconds)
    process.kill()
    process.communicate()
    assert finish(folder, output) == expected


@pytest.mark.slow
def test_a_killed_run_goes_on(folder: Path, whole: tuple[dict[str, bytes], float]) -> None:
    check(folder, whole, 0.7)


@pytest.mark.nightly
@pytest.mark.parametrize("point", range(20))
def test_killed_at_twenty_points(folder: Path, whole: tuple[dict[str, bytes], float], point: int) -> None:
    check(folder, whole, random.Random(point).random())
