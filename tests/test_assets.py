"""The real ImageNet DeiT-T and real images, a few of them: the whole figures are in benchmarks/results."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import fx, nn

import qpass
from qpass.backends.onnxruntime import OrtSession
from qpass.data import ImageTransform, ModelInputs, image_batches, open_images
from qpass.evaluation.top1 import evaluate_top1
from qpass.graph.capture.trace import trace
from qpass.passes import Annotate, Calibrate, Canonicalize
from qpass.passes.analysis.statistics import Statistics
from qpass.zoo.timm_models import create_model


@pytest.fixture(scope="module")
def deit(assets: Path) -> nn.Module:
    return create_model("deit_tiny_patch16_224", assets / "deit_tiny_in1k" / "model.safetensors")


@pytest.fixture(scope="module")
def calibration(assets: Path) -> torch.Tensor:
    source = open_images(assets / "imagenet_1000_256" / "images.zip", ImageTransform())
    return next(iter(image_batches(source, 16, limit=16)))[0]


@pytest.fixture(scope="module")
def quantized_deit(deit: nn.Module, calibration: torch.Tensor) -> fx.GraphModule:
    return qpass.quantize_graph(deit, [calibration], "w8a8", progress=False)


@pytest.mark.nightly
def test_eight_bits_keep_the_accuracy_in_torch_and_through_onnxruntime(
    assets: Path, deit: nn.Module, quantized_deit: fx.GraphModule, tmp_path: Path
) -> None:
    source = open_images(assets / "imagenet_val650_227" / "images.zip", ImageTransform())
    batches = list(image_batches(source, 50, limit=150))
    path = qpass.export_onnx(quantized_deit, tmp_path / "m.onnx")
    base, graph, file = (evaluate_top1(f, batches) for f in (deit, quantized_deit, OrtSession(path)))
    assert base.top1 > 0.7
    assert base.top1 - graph.top1 <= 0.02
    assert abs(graph.top1 - file.top1) <= 0.014
    assert path.stat().st_size < 0.28 * sum(p.numel() * 4 for p in deit.parameters())


@pytest.mark.slow
def test_both_verifications_pass(quantized_deit: fx.GraphModule, calibration: torch.Tensor, tmp_path: Path) -> None:
    path = qpass.export_onnx(quantized_deit, tmp_path / "m.onnx")
    report = qpass.verify_onnx(quantized_deit, path, calibration[:4])
    assert report.passed
    assert sum(layer.wrong for check in report.checks for layer in check.layers) == 0


@pytest.mark.slow
def test_the_model_has_dead_channels_and_they_are_handled(deit: nn.Module, calibration: torch.Tensor) -> None:
    graph, statistics = trace(deit, (calibration,)), Statistics()
    for step in (
        Canonicalize(),
        Annotate(qpass.QuantConfig.from_any("repq-vit-w4a4")),
        Calibrate([ModelInputs((calibration[:4],), {})], statistics, per_channel=True),
    ):
        step(graph)
    dead = sum(int((observer.high == observer.low).sum()) for observer in statistics.channels.values())
    assert dead > 0
    graph = qpass.quantize_graph(deit, [calibration[:4]], "repq-vit-w4a4", progress=False)
    assert graph(calibration[:2]).isfinite().all()
