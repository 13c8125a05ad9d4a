from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, fx, nn

import qpass
from qpass.backends.onnxruntime.verification import RuntimeCheck
from qpass.errors import LoweringError, VerifyError


def tampered(path: Path, folder: Path, name: str, change: object) -> Path:
    """Writes the file with one initializer changed."""
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))  # type: ignore[operator]
    onnx.save(model, folder / "tampered.onnx")
    return folder / "tampered.onnx"


def flip_one_weight(codes: np.ndarray) -> np.ndarray:
    codes[3, 5] += 9
    return codes


def test_one_wrong_weight_is_found_and_its_layer_named(
    quantized: fx.GraphModule, exported: Path, images: Tensor, tmp_path: Path
) -> None:
    path = tampered(exported, tmp_path, "blocks_0_mlp_fc1_quantized.weight_codes", flip_one_weight)
    report = qpass.verify_onnx(quantized, path, images, strict=False)
    assert not report.passed
    wrong = {layer.quantizer for check in report.checks for layer in check.layers if layer.wrong}
    assert wrong == {"gelu_quantizer"}, "the error stays with the layer that made it"
    assert "MatMul" in next(layer.caused_by for layer in report.checks[1].layers if layer.wrong) or "Gelu" in str(report)
    with pytest.raises(VerifyError, match=r"tampered\.onnx: as written: gelu_quantizer: \d+ wrong codes"):
        qpass.verify_onnx(quantized, path, images)


def test_a_scale_that_is_a_little_off_is_found(
    quantized: fx.GraphModule, exported: Path, images: Tensor, tmp_path: Path
) -> None:
    path = tampered(exported, tmp_path, "gelu_quantizer.scale", lambda scale: scale * np.float32(1.001))
    assert not qpass.verify_onnx(quantized, path, images, strict=False).passed


def test_another_models_file_is_refused(vit: nn.Module, quantized: fx.GraphModule, images: Tensor, tmp_path: Path) -> None:
    other = qpass.quantize_graph(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), [images], progress=False)
    path = qpass.export_onnx(other, tmp_path / "other.onnx")
    with pytest.raises(
        VerifyError, match="the file holds no codes of this quantizer; expected the file that export_onnx wrote"
    ):
        qpass.verify_onnx(quantized, path, images)


def test_a_file_that_is_no_onnx_is_refused(quantized: fx.GraphModule, images: Tensor, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"not onnx at all")
    with pytest.raises((VerifyError, LoweringError), match=r"m\.onnx"):
        qpass.verify_onnx(quantized, tmp_path / "m.onnx", images)


class _Casts(nn.Module):
    """A part in float32 whatever comes in, as networks have it that guard some of their arithmetic against autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.arange(1, 9, dtype=torch.float32).view(8, 1, 1)
        return self.second((self.first(x) * scale).to(torch.float32)).mean((2, 3))


def test_a_network_that_casts_to_float32_is_compared_in_float64_all_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, images = _Casts().eval(), torch.randn(4, 3, 16, 16)
    graph = qpass.quantize_graph(model, [images], "w8a8", progress=False)
    assert qpass.verify_onnx(graph, qpass.export_onnx(graph, tmp_path / "m.onnx"), images).passed


def test_the_bound_of_the_whole_network() -> None:
    far = RuntimeCheck("as written", (), 0.0, 30.0, 1.51, 1.0)
    assert far.failures == [
        "as written: the outputs are 1.51 times as far from torch as torch is uncertain, at most 1.5 expected"
    ]


def test_the_report_is_data_and_text(quantized: fx.GraphModule, exported: Path, images: Tensor) -> None:
    report = qpass.verify_onnx(quantized, exported, images)
    data = report.to_dict()
    assert data["passed"] is True
    assert data["samples"] == 8
    assert {"quantizer", "codes", "ties", "own_ties", "wrong", "caused_by"} <= set(data["checks"][0]["layers"][0])
    assert str(report).startswith("PASSED")
    for check in report.checks:
        assert 0 <= check.flipped_share < 1
        assert check.top1_agreement == 1


def test_verification_changes_nothing(quantized: fx.GraphModule, exported: Path, images: Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in quantized.state_dict().items()}
    content = exported.read_bytes()
    qpass.verify_onnx(quantized, exported, images)
    assert exported.read_bytes() == content
    assert all(torch.equal(tensor, before[name]) for name, tensor in quantized.state_dict().items())
