"""A graph and its model, or two files, become the files that are timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, fx, nn

import qpass
import qpass.backends.benchmark as module
from qpass.backends.benchmark import benchmark_pair
from qpass.backends.onnx_qdq import export_float
from qpass.errors import ConfigError
from qpass.graph.capture.trace import trace

OPTIONS: dict[str, Any] = {"batches": (1,), "threads": (1,), "runs": 1, "show_progress": False}


@pytest.fixture(scope="module")
def small() -> tuple[nn.Module, fx.GraphModule, Tensor]:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)).eval(), torch.randn(16, 8)
    return model, qpass.quantize_graph(model, [x], "w8a8", progress=False), x  # type: ignore[return-value]


def test_what_is_no_file_is_exported_and_computes_what_it_did(
    small: tuple[nn.Module, fx.GraphModule, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, quantized, x = small
    outputs: dict[str, np.ndarray] = {}

    def run(files: dict[str, Path], baseline: str, **options: Any) -> str:
        assert baseline == "float"
        assert options == OPTIONS
        for name, path in files.items():
            (outputs[name],) = ort.InferenceSession(path).run(None, {"input": x.numpy()})
        return "report"

    monkeypatch.setattr(module, "benchmark", run)
    assert benchmark_pair(quantized, model, **OPTIONS) == "report"
    assert list(outputs) == ["float", "quantized"]
    torch.testing.assert_close(torch.from_numpy(outputs["float"]), model(x), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(torch.from_numpy(outputs["quantized"]), quantized(x), rtol=0, atol=0.1)


def test_files_are_timed_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "benchmark", lambda files, **options: files)
    assert benchmark_pair("q.onnx", "f.onnx", **OPTIONS) == {"float": "f.onnx", "quantized": "q.onnx"}


def test_a_file_that_is_not_quantized_is_called_by_its_name(
    small: tuple[nn.Module, fx.GraphModule, Tensor], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model, quantized, x = small
    plain = export_float(trace(model, (x,)), tmp_path / "plain.onnx")
    integer = qpass.export_onnx(quantized, tmp_path / "integer.onnx")
    monkeypatch.setattr(module, "benchmark", lambda files, **options: files)
    assert benchmark_pair(plain, "f.onnx", **OPTIONS) == {"float": "f.onnx", "plain.onnx": plain}
    assert benchmark_pair(integer, plain, **OPTIONS) == {"float": plain, "quantized": integer}
    with pytest.raises(ConfigError, match=r"plain\.onnx: is the baseline too; expected two files"):
        benchmark_pair(plain, plain, **OPTIONS)


def test_a_model_beside_a_file_has_no_inputs_to_be_exported_with() -> None:
    with pytest.raises(ConfigError, match="baseline: a float model cannot be compared with an ONNX file; expected two files"):
        benchmark_pair("q.onnx", nn.Linear(2, 2), **OPTIONS)
