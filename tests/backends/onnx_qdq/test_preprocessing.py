"""What a file says about its images, and when a transform does not belong to a graph."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import onnx
import pytest
from torch import fx, nn

import qpass
from qpass.backends.onnx_qdq.preprocessing import describe_preprocessing, takes_images
from qpass.data import ImageTransform
from qpass.errors import ConfigError, LoweringError
from qpass.graph.facts import update_facts
from tests.models import SMALL_VIT_CLASSES, SMALL_VIT_IMAGES


def test_a_file_holds_all_that_is_needed_to_run_it(exported: Path) -> None:
    model = onnx.load(exported)
    found = json.loads({entry.key: entry.value for entry in model.metadata_props}["qpass.preprocessing"])
    assert found == {
        "input": model.graph.input[0].name,
        "layout": "NCHW",
        "dtype": "float32",
        "channels": "RGB",
        "size": [32, 32],
        "resize": 36,
        "fit": "cover",
        "interpolation": "bilinear",
        "crop_rounding": "half-even",
        "fill": [0],
        "rescale": 1 / 255,
        "mean": [0.4, 0.5, 0.6],
        "std": [0.1, 0.2, 0.3],
        "classes": SMALL_VIT_CLASSES,
    }


def test_a_transform_that_fits_no_input_is_refused(quantized: fx.GraphModule, tmp_path: Path) -> None:
    other = ImageTransform(crop=(32, 16))
    assert takes_images(quantized, SMALL_VIT_IMAGES)
    assert not takes_images(quantized, other)
    assert not takes_images(quantized, ImageTransform(crop=32, mean=(0.5,), std=(0.5,)))
    message = r"preprocessing: 0 inputs take images of RGB, \[32, 16\]; the inputs are x \(.*, 3, 32, 32\); expected"
    with pytest.raises(LoweringError, match=message):
        qpass.export_onnx(quantized, tmp_path / "m.onnx", preprocessing=other)
    assert not (tmp_path / "m.onnx").exists()


def test_class_names_that_no_output_has_raise_a_warning(quantized: fx.GraphModule) -> None:
    with pytest.warns(UserWarning, match="3 class names, but no output has as many scores"):
        describe_preprocessing(quantized, SMALL_VIT_IMAGES, ["a", "b", "c"])


def test_class_names_need_preprocessing_and_parts_have_none(quantized: fx.GraphModule, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="class_names: given without preprocessing"):
        qpass.export_onnx(quantized, tmp_path / "m.onnx", class_names=["a"])
    part = copy.deepcopy(quantized)
    update_facts(part, is_part=True)
    parts = nn.Sequential(part)
    with pytest.raises(ConfigError, match="preprocessing: given for a model quantized in parts"):
        qpass.export_onnx(parts, tmp_path / "m", preprocessing=SMALL_VIT_IMAGES)
