"""Files for TensorRT: the form that its parser takes, the graph's network, and which graphs have no such form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.errors import LoweringError
from tests.backends.onnx_qdq.explicit_form import check_explicit_form
from tests.models import ManyOutputs

SIGNED = {"preset": "w8a8", "signed_codes": True}


class Convolutions(nn.Module):
    """A stem, a depthwise and a pointwise convolution with a residual, and a signal's convolution in one dim."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.pointwise, self.norm = nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)
        self.signal, self.head = nn.Conv1d(16, 8, 3, padding=1, bias=False), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).relu()
        y = y + self.norm(self.pointwise(self.depthwise(y).relu()))
        return self.head(self.signal(y.flatten(2)).mean(-1))


@pytest.fixture(scope="module")
def signed(vit: nn.Module, images: Tensor) -> fx.GraphModule:
    return qpass.quantize_graph(vit, [images], SIGNED, progress=False)


def exported(graph: fx.GraphModule, folder: Path, **options: Any) -> Path:
    return qpass.export_onnx(graph, folder / "m.onnx", target="tensorrt", **options)


@pytest.mark.slow
def test_a_vision_transformer(signed: fx.GraphModule, images: Tensor, tmp_path: Path) -> None:
    path = exported(signed, tmp_path)
    assert check_explicit_form(path) == {"Conv": 1, "MatMul": 9 + 4}
    assert qpass.verify_onnx(signed, path, images).passed
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert metadata["qpass.target"] == "tensorrt"
    assert metadata["qpass.format"].endswith("; never run in TensorRT")


@pytest.mark.slow
def test_convolutions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Convolutions().eval(), torch.randn(8, 3, 16, 16)
    graph = qpass.quantize_graph(model, [x], SIGNED, progress=False)
    path = exported(graph, tmp_path)
    assert check_explicit_form(path) == {"Conv": 4, "MatMul": 1}
    assert qpass.verify_onnx(graph, path, x).passed


def test_several_outputs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = ManyOutputs().eval(), torch.randn(8, 3, 16)
    graph = qpass.quantize_graph(model, [x], SIGNED, progress=False)
    path = exported(graph, tmp_path)
    assert check_explicit_form(path)
    assert qpass.verify_onnx(graph, path, x).passed


@pytest.mark.slow
def test_narrow_weights_and_float_inputs(vit: nn.Module, images: Tensor, tmp_path: Path) -> None:
    rules = {"blocks.0.mlp.fc1": {"activation": None}, "patch_embed.proj": {"activation": None}, "head": None}
    recipe = {"preset": "w4a8", "signed_codes": True, "weight_rounding": "nearest", "rules": rules}
    graph = qpass.quantize_graph(vit, [images], recipe, progress=False)
    path = exported(graph, tmp_path)
    assert check_explicit_form(path) == {"MatMul": 7 + 4}, "weights of float inputs are floats"
    assert qpass.verify_onnx(graph, path, images).passed


def test_what_has_no_such_form_is_named(
    quantized: fx.GraphModule, quantized_4bit: fx.GraphModule, quantized_codebook: fx.GraphModule, tmp_path: Path
) -> None:
    with pytest.raises(
        LoweringError, match=r"tensorrt cannot express x: a zero point; .*; 1[0-9] more; expected uniform 8-bit"
    ):
        exported(quantized, tmp_path)
    with pytest.raises(LoweringError, match=r"4-bit activations.*qpass quantize --target tensorrt"):
        exported(quantized_4bit, tmp_path)
    with pytest.raises(LoweringError, match=r"a ByteTable quantizer|the table of a WeightCodebook"):
        exported(quantized_codebook, tmp_path)
    assert not list(tmp_path.iterdir())
