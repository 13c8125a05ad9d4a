"""``qpass quantize --calib``: which images of a sorted folder are drawn, and what the run records of them."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import qpass
from qpass.cli import main
from qpass.cli.run_folder import read_settings

CLASSES, EACH = 4, 6


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Four classes of six images; the red of an image is its class."""
    noise = np.random.default_rng(0).integers(0, 255, (CLASSES, EACH, 32, 32, 3), dtype=np.uint8)
    for label in range(CLASSES):
        (tmp_path / "set" / f"class{label}").mkdir(parents=True)
        for number in range(EACH):
            noise[label, number, ..., 0] = label
            Image.fromarray(noise[label, number]).save(tmp_path / "set" / f"class{label}" / f"{number}.png")
    return tmp_path / "set"


def quantize(images: Path, output: Path, *options: object) -> Any:
    given = ("--calib", images, "--output", output, "--crop", 32, "--no-verify")
    command = ("quantize", "tests.models:small_vit", *given, *options)
    result = CliRunner().invoke(main, [str(part) for part in command])
    assert result.exit_code == 0, result.output
    return result


def test_images_are_drawn_from_every_class_and_recorded(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    real = qpass.quantize_graph

    def watched(model: Any, batches: Any, *args: Any, **kwargs: Any) -> Any:
        kept = list(batches)
        seen[:] = kept
        return real(model, kept, *args, **kwargs)

    monkeypatch.setattr(qpass, "quantize_graph", watched)
    for name, instead in (
        ("float_file", lambda *_: nullcontext(None)),
        ("write_files", lambda qmodel, *_: replace(qpass.quantization_report(qmodel), target="onnxruntime")),
        ("write_report", lambda figures, *_: figures),
        ("_record", lambda *_: {}),
    ):
        monkeypatch.setattr(f"qpass.cli.quantize_run.{name}", instead)
    drawn = {}
    for seed in (0, 1):
        done = quantize(images, tmp_path / "out", "--calib-count", 8, "--batch-size", 4, "--seed", seed)
        assert done.stdout.splitlines()[-1] == f"written to {tmp_path / 'out'}; activations: 8 bits; weights: 8 bits"
        settings = read_settings(tmp_path / "out")
        assert settings.seed == seed
        assert Counter(Path(name).parent.name for name in settings.images) == {f"class{label}": 2 for label in range(CLASSES)}
        reds = torch.cat(seen)[:, 0, 0, 0]
        labels = [int(Path(name).parent.name[-1]) for name in settings.images]
        assert len(set(zip(reds.tolist(), labels, strict=True))) == CLASSES  # one red for each class, in the same order
        drawn[seed] = settings.images
    assert drawn[0] != drawn[1]
    old = quantize(images, tmp_path / "out", "--num-calib", 8)
    assert old.stderr.splitlines()[0] == "warning: --num-calib is now --calib-count"
    assert read_settings(tmp_path / "out").images == drawn[0]


def test_settings_of_before_are_read(images: Path, tmp_path: Path) -> None:
    transform = {"crop": 8, "resize": None, "mean": [0.0], "std": [1.0]}
    (tmp_path / "settings.json").write_text(json.dumps({"model": "m", "calibration": "c", "transform": transform}))
    found = read_settings(tmp_path)
    assert (found.seed, found.images) == (0, ())
    (tmp_path / "settings.json").write_text('{"model": "m", "calibration": "c", "images": "a", "transform": {}}')
    with pytest.raises(qpass.QPassError, match=r"images: got 'a'; expected a list of names"):
        read_settings(tmp_path)
