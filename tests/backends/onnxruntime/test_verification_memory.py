"""Verification finds the same with little memory as with much, and then keeps no layer's values there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.backends.onnxruntime import forced_run
from qpass.backends.onnxruntime.session import OrtSession
from qpass.backends.onnxruntime.torch_run import TorchRun
from qpass.data import ModelInputs
from qpass.errors import VerifyError
from qpass.runtime.storage import Storage
from tests.backends.onnxruntime.test_output_check import changed
from tests.live_bytes import LiveBytes

ROWS, TOKENS = 16, 1024


def test_the_same_is_found_a_layer_at_a_time(
    quantized: fx.GraphModule, exported: Path, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = qpass.verify_onnx(quantized, exported, images)
    runs: list[int] = []
    monkeypatch.setattr(forced_run, "AT_ONCE", 1)
    run = OrtSession.run
    monkeypatch.setattr(OrtSession, "run", lambda self, *args: runs.append(len(args)) or run(self, *args))
    assert qpass.verify_onnx(quantized, exported, images, max_memory=0) == expected
    assert runs.count(2) > 3 * len(expected.checks[0].layers), "each quantizer was run by itself, in each of three runs"


@pytest.mark.slow
def test_a_wrong_layer_is_found_a_layer_at_a_time(
    quantized: fx.GraphModule, exported: Path, images: Tensor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wrong = changed(exported, tmp_path, "blocks_1_mlp_fc2_quantized.weight_scale", lambda s: s * np.float32(1.1))
    expected = qpass.verify_onnx(quantized, wrong, images, strict=False)
    monkeypatch.setattr(forced_run, "AT_ONCE", 1)
    assert not expected.passed
    assert qpass.verify_onnx(quantized, wrong, images, max_memory=0, strict=False) == expected
    with pytest.raises(VerifyError):
        qpass.verify_onnx(quantized, wrong, images, max_memory=0)


class Narrow(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).relu()
        return x.mean(1)


def peak(depth: int) -> int:
    x = torch.randn(ROWS, TOKENS, 8, generator=torch.Generator().manual_seed(0))
    graph = qpass.quantize_graph(Narrow(depth).eval(), [x], "w8a8", progress=False)
    with LiveBytes() as live:
        TorchRun(graph, ModelInputs((x,), {}), storage=Storage(0))
    return live.peak


def test_what_torch_makes_of_deep_networks_takes_no_more_memory() -> None:
    few, many, values = peak(2), peak(12), ROWS * TOKENS * 8
    assert many - few < 10 * 2 * values, "ten more layers of codes of a byte, and not of values of 4 and 8"
