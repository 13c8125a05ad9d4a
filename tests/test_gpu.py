"""Quantization on a GPU: the same network as on the CPU up to float rounding, exported and verified like any other."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qpass

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

FEW_STEPS = {"steps": 4, "batch_size": 4}
RECIPES: dict[str, Any] = {
    "w8a8": "w8a8",
    "closed form": "w4a4",
    "three stages": {"preset": "ias-vit-w6a6", "reconstruction": FEW_STEPS},
    "low rank": {"preset": "aiqvit-w6a6", "reconstruction": {**FEW_STEPS, "ranks": [2, 4], "search_steps": 2}},
}


def sqnr_db(expected: Tensor, found: Tensor) -> float:
    return float(10 * torch.log10(expected.square().sum() / (expected - found).square().sum()))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_model_is_quantized_on_a_gpu_and_verified(vit: nn.Module, images: Tensor, recipe: str, tmp_path: Path) -> None:
    graph = qpass.quantize_graph(vit, [images], RECIPES[recipe], device="cuda", progress=False)
    assert {parameter.device.type for parameter in vit.parameters()} == {"cpu"}, "the caller's model is where it was"
    path = qpass.export_onnx(graph, tmp_path / "model.onnx")
    assert qpass.verify_onnx(graph, path, images).passed
    qpass.save(graph, tmp_path / "model.qpass")
    on_cpu = qpass.quantize_graph(vit, [images], RECIPES[recipe], progress=False)
    with torch.no_grad():
        expected, loaded = vit(images), qpass.load(tmp_path / "model.qpass")(images)
        assert sqnr_db(expected, loaded) > sqnr_db(expected, on_cpu(images)) - 3, "as accurate as on the CPU"


def test_a_model_that_lies_on_a_gpu_is_quantized_there(vit: nn.Module, images: Tensor, tmp_path: Path) -> None:
    model = copy.deepcopy(vit).cuda()
    graph = qpass.quantize_graph(model, [images], "w8a8", progress=False)  # a loader gives tensors on the CPU
    assert graph(images.cuda()).is_cuda
    assert qpass.verify_onnx(graph, qpass.export_onnx(graph, tmp_path / "model.onnx"), images.cuda()).passed
    assert next(model.parameters()).is_cuda
