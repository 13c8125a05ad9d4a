"""The float file computes what the model computes, and is the one that ``quantize`` and ``bench`` compare with."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.backends.onnxruntime import OrtSession
from qpass.errors import ConfigError, UnsupportedError
from tests.models import SMALL_VIT_CLASSES, SMALL_VIT_IMAGES


def test_it_computes_what_the_model_computes(vit: nn.Module, images: Tensor, tmp_path: Path) -> None:
    path = qpass.export_float(
        vit, images[:2], tmp_path / "float.onnx", preprocessing=SMALL_VIT_IMAGES, class_names=SMALL_VIT_CLASSES
    )
    with torch.no_grad():
        torch.testing.assert_close(OrtSession(path)(images), vit(images), rtol=0, atol=1e-5)
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(metadata["qpass.preprocessing"])["classes"] == list(SMALL_VIT_CLASSES)


def test_a_model_of_half_floats_becomes_float32(tmp_path: Path) -> None:
    model, x = nn.Linear(4, 3).half(), torch.randn(2, 4)
    with pytest.warns(UserWarning, match="weights of float16"):
        path = qpass.export_float(model, x.half(), tmp_path / "float.onnx")
    torch.testing.assert_close(OrtSession(path)(x), model.float()(x).detach(), rtol=0, atol=1e-3)


def test_what_is_refused(vit: nn.Module, images: Tensor, quantized: fx.GraphModule, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="quantized"):
        qpass.export_float(quantized, images, tmp_path / "float.onnx")
    with pytest.raises(ConfigError, match="export_float, class_names: given without preprocessing"):
        qpass.export_float(vit, images, tmp_path / "float.onnx", class_names=["a"])
    assert list(tmp_path.iterdir()) == []
