"""The script is complete: it runs where neither qpass nor torch can be imported."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import fx

from qpass.backends.deployed.script import run_script
from qpass.backends.onnxruntime import OrtSession
from tests.models import SMALL_VIT_IMAGES

#: Only these may be imported beside Python's own modules.
WITHOUT = """
import runpy, sys
for name in ("qpass", "torch", "torchvision", "timm", "transformers", "onnx"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_alone(script: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-c", WITHOUT, str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=script.parent)


@pytest.fixture(scope="module")
def folder(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    shutil.copy(exported, folder / "model.onnx")
    (folder / "run.py").write_text(run_script())
    for index, size in enumerate([(50, 40), (36, 90)]):
        values = np.random.default_rng(index).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(values).save(folder / f"{index}.png")
    return folder


def test_it_gives_what_the_graph_gives(quantized: fx.GraphModule, folder: Path) -> None:
    result = run_alone(folder / "run.py", "0.png", "1.png", "--top", 2, "--save", "outputs.npz")
    assert result.returncode == 0, result.stderr
    found = torch.from_numpy(np.load(folder / "outputs.npz")["output"])
    images = torch.stack([SMALL_VIT_IMAGES(Image.open(folder / f"{i}.png")) for i in (0, 1)])
    expected = quantized(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02 * expected.std().item())
    session = OrtSession(folder / "model.onnx")
    assert torch.equal(found, torch.cat([session(image[None]) for image in images]))
    lines = result.stdout.splitlines()
    assert [lines[0], lines[3]] == ["0.png:", "1.png:"]
    chances = found.double().softmax(1)
    for line, chance, kind in zip((lines[1], lines[4]), chances.amax(1), chances.argmax(1), strict=True):
        assert line == f"  {chance:7.2%}  kind {kind}"


def test_its_errors_are_one_line(folder: Path) -> None:
    result = run_alone(folder / "run.py", "none.png")
    assert result.returncode == 1
    assert result.stderr.startswith("none.png: cannot be read")
    assert len(result.stderr.splitlines()) == 1
