"""Files run in OpenVINO as they do in torch, and what runs otherwise there is refused."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, fx

import qpass
from qpass.backends.onnxruntime.verification import verify
from qpass.backends.openvino.session import OpenVinoSession
from qpass.errors import ConfigError, LoweringError, VerifyError
from tests.models import DictModel

pytest.importorskip("openvino")


@pytest.mark.parametrize("name", ["exported", "exported_4bit", "exported_codebook"])
def test_outputs_are_those_of_torch(name: str, request: pytest.FixtureRequest, images: Tensor) -> None:
    graph, path = request.getfixturevalue(name.replace("exported", "quantized")), request.getfixturevalue(name)
    report = qpass.verify_onnx(graph, path, images, runtime="openvino")
    *_, check = report.checks
    assert [each.name for each in report.checks] == ["as written", "as shipped", "in OpenVINO"]
    assert (check.layers, check.flipped_share) == ((), None)
    assert check.sqnr_db > 20
    assert f"in OpenVINO: running freely: output {check.sqnr_db:.1f} dB" in str(report)
    found = OpenVinoSession(path, threads=1).run({"x": images.numpy()})["output"]
    signal = np.square(graph(images).numpy()).sum() / np.square(found - graph(images).numpy()).sum()
    assert check.sqnr_db == pytest.approx(10 * np.log10(signal), abs=3)


def test_a_file_for_openvino_passes_in_both(quantized: fx.GraphModule, images: Tensor, tmp_path: Path) -> None:
    path = qpass.export_onnx(quantized, tmp_path / "m.onnx", target="openvino")
    assert qpass.verify_onnx(quantized, path, images, runtime="openvino").passed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: y * 1.5, r"in OpenVINO: the error of the outputs is .* times torch's own uncertainty"),
        (lambda y: np.where(y == y.max(), np.nan, y).astype(np.float32), r"in OpenVINO: output 'output': 1 values are NaN"),
    ],
    ids=["other values", "NaN"],
)
def test_what_openvino_computes_otherwise_is_refused(
    change: object, message: str, quantized: fx.GraphModule, exported: Path, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = OpenVinoSession.run

    def otherwise(self: OpenVinoSession, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: change(value) for name, value in run(self, inputs).items()}  # type: ignore[operator]

    monkeypatch.setattr(OpenVinoSession, "run", otherwise)
    with pytest.raises(VerifyError, match=message):
        qpass.verify_onnx(quantized, exported, images, runtime="openvino")
    assert qpass.verify_onnx(quantized, exported, images).passed


def test_outputs_are_matched_by_name(images: Tensor, tmp_path: Path) -> None:
    x = images.flatten(1)[:, :8]
    graph = qpass.quantize_graph(DictModel().eval(), [{"values": x}], progress=False)
    path = qpass.export_onnx(graph, tmp_path / "m.onnx")
    assert OpenVinoSession(path).output_names == ["logits", "hidden"]
    assert qpass.verify_onnx(graph, path, {"values": x}, runtime="openvino").passed


def test_a_runtime_that_is_not_known_is_refused(quantized: fx.GraphModule, exported: Path, images: Tensor) -> None:
    with pytest.raises(ConfigError, match=r"no runtime is called 'openvin'.*did you mean 'openvino'\?"):
        qpass.verify_onnx(quantized, exported, images, runtime="openvin")
    with pytest.raises(ConfigError, match="no runtime"):
        verify(quantized, exported, qpass.data.ModelInputs((images,), {}), runtime="")


def test_what_cannot_be_loaded_or_run_is_refused(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no file")
    with pytest.raises(LoweringError, match=r"bad\.onnx: OpenVINO .* cannot load it"):
        OpenVinoSession(tmp_path / "bad.onnx")
    with pytest.raises(LoweringError, match=r"model\.onnx: OpenVINO .* cannot run it"):
        OpenVinoSession(exported).run({"x": np.zeros((1, 2), np.float32)})
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(LoweringError, match=r"OpenVINO is not installed; pip install openvino"):
        OpenVinoSession(exported)
