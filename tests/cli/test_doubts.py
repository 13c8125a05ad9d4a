"""Runs that work and mean nothing are warned about; sound ones are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import fx

from qpass.backends.onnx_qdq.export import processors
from qpass.cli.doubts import doubt_of_file, doubt_of_labels, doubts_of_folder, doubts_of_images, doubts_of_weights
from qpass.evaluation.top1 import Accuracy


def test_random_weights() -> None:
    (said,) = doubts_of_weights("deit_tiny_patch16_224", None, None)
    assert said == "deit_tiny_patch16_224 has random weights, so its accuracy means nothing; give its weights with --checkpoint"
    assert not list(doubts_of_weights("deit_tiny_patch16_224", Path("weights.safetensors"), None))
    assert not list(doubts_of_weights("my/vit", None, Path("my/vit")))
    assert not list(doubts_of_weights("mymodel:make", None, None))


@pytest.mark.parametrize(("low", "high", "doubtful"), [(0, 1, True), (0, 255, True), (-2, 2, False), (0, 4, False)])
def test_arrays_that_are_not_normalized(low: float, high: float, doubtful: bool) -> None:
    batch = torch.linspace(low, high, 8 * 3 * 16).view(8, 3, 4, 4)
    found = list(doubts_of_images(batch, 32, 32, arrays=True, normalized=True))
    assert [f"values from {low} to {high}, like pixels" in said for said in found] == [True] * doubtful
    assert not list(doubts_of_images(batch, 32, None, arrays=False, normalized=True))
    assert not list(doubts_of_images(batch, 32, None, arrays=True, normalized=False))


def test_fewer_images_than_asked_for() -> None:
    batch = torch.randn(1, 3, 4, 4)
    assert list(doubts_of_images(batch, 20, 5000, arrays=False, normalized=True)) == [
        "5000 calibration images were asked for, and there are 20"
    ]
    (said,) = doubts_of_images(batch, 1, 1, arrays=False, normalized=True)
    assert said == "1 calibration image: ranges fitted on so few are unreliable; give 32 to 128"


def test_a_folder_of_another_run(tmp_path: Path) -> None:
    assert not list(doubts_of_folder(tmp_path, "a", "w8a8"))
    (tmp_path / "settings.json").write_text(json.dumps({"model": "a"}))
    assert not list(doubts_of_folder(tmp_path, "a", "w8a8"))
    (tmp_path / "report.json").write_text(json.dumps({"config": {"name": "w8a8"}}))
    assert not list(doubts_of_folder(tmp_path, "a", "w8a8"))
    assert list(doubts_of_folder(tmp_path, "a", "w4a8")) == [f"{tmp_path} holds a as w8a8, which this run replaces"]
    assert list(doubts_of_folder(tmp_path, "b", "w8a8")) == [f"{tmp_path} holds a as w8a8, which this run replaces"]


@pytest.mark.parametrize(
    ("right", "classes", "doubtful"), [(2, 10, True), (20, 10, False), (0, 1000, True), (1, 1000, False), (0, 0, False)]
)
def test_labels_that_a_network_does_not_know(right: int, classes: int, doubtful: bool) -> None:
    said = doubt_of_labels(Accuracy(torch.arange(40) < right, classes))
    assert (said is not None) == doubtful
    if said:
        assert said.startswith(
            f"the float network classifies {right / 40:.1%} of 40 images correctly, no more than guessing would"
        )


def test_a_file_that_is_exact_on_some_processors(quantized: fx.GraphModule) -> None:
    assert doubt_of_file(processors(quantized, "uint8"), "model.onnx", "onnxruntime") is None
    said = doubt_of_file(processors(quantized, "int8"), "model.onnx", "onnxruntime")
    assert (
        said
        == "on x86 processors without VNNI, model.onnx gives other results; --weight-type uint8 is exact on every processor"
    )


def test_a_file_that_no_runtime_of_its_target_has_run(quantized: fx.GraphModule) -> None:
    exact = processors(quantized, "auto", "tensorrt")
    assert exact == "ARM and x86 with VNNI in onnxruntime; not run in TensorRT"
    said = doubt_of_file(exact, "model.onnx", "tensorrt")
    assert said == "model.onnx is verified numerically in onnxruntime's CPU, and was not run in TensorRT"
