"""Files for every target hold the same network; each is loaded by the runtime that it is for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.backends.onnx_qdq.targets import TARGETS
from qpass.backends.onnxruntime import OrtSession
from qpass.errors import LoweringError

#: Targets for which every graph has a form; see test_explicit.py for the other.
FOR_EVERY_GRAPH = sorted(name for name, target in TARGETS.items() if not target.lowering.explicit)
RECIPES = ("w8a8", "mixed-w3a4", "repq-vit-w4a4", "aiqvit-w4a4")


@pytest.fixture(scope="module", params=RECIPES)
def graph(request: pytest.FixtureRequest, vit: nn.Module, images: Tensor) -> fx.GraphModule:
    config = {"preset": request.param, **({"reconstruction": None} if request.param.startswith("aiqvit") else {})}
    return qpass.quantize_graph(vit, [images], config, progress=False)


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("target", FOR_EVERY_GRAPH)
def test_every_target_is_the_same_network(graph: fx.GraphModule, images: Tensor, tmp_path: Path, target: str) -> None:
    path = qpass.export_onnx(graph, tmp_path / "m.onnx", target=target)
    assert qpass.verify_onnx(graph, path, images).passed
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert metadata["qpass.target"] == target
    assert json.loads(metadata["qpass.options"]) == ({"INFERENCE_PRECISION_HINT": "f32"} if target == "openvino" else {})


@pytest.mark.slow
def test_only_contrib_uses_operators_of_onnxruntime_alone(quantized: fx.GraphModule, tmp_path: Path) -> None:
    for target in FOR_EVERY_GRAPH:
        model = onnx.load(qpass.export_onnx(quantized, tmp_path / "m.onnx", target=target))
        domains = {node.domain for node in model.graph.node}
        assert domains == ({"", "com.microsoft"} if target == "onnxruntime-contrib" else {""})
        assert {entry.domain for entry in model.opset_import} == domains


@pytest.mark.slow
def test_contrib_leaves_no_product_to_scale(quantized: fx.GraphModule, tmp_path: Path) -> None:
    operators = {
        target: OrtSession(qpass.export_onnx(quantized, tmp_path / f"{target}.onnx", target=target), keep_graph=True).operators
        for target in ("onnxruntime", "onnxruntime-contrib")
    }
    assert {"MatMulInteger", "DequantizeLinear"} <= set(operators["onnxruntime"])
    assert not {"MatMulInteger", "DequantizeLinear", "Cast", "Mul"} & set(operators["onnxruntime-contrib"])


class _Shifted(nn.Module):
    """Adds a constant to a Linear's output, which has as many channels as there are tokens."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.first, self.linear = nn.Linear(8, 6), nn.Linear(6, 6, bias=False)
        self.register_buffer("shift", torch.randn(shape, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.first(x)) + self.shift


@pytest.mark.slow(after=2)
@pytest.mark.parametrize("shape", [(6, 1), (6,), (1, 6), (1, 6, 1), (1, 1, 1, 6), (6, 6), ()], ids=str)
def test_contrib_tells_a_bias_from_other_constants(shape: tuple[int, ...], tmp_path: Path) -> None:
    x, model = torch.randn(8, 6, 8, generator=torch.Generator().manual_seed(1)), _Shifted(*shape).eval()
    graph = qpass.quantize_graph(model, [x], "w8a8", progress=False)
    path = qpass.export_onnx(graph, tmp_path / "m.onnx", target="onnxruntime-contrib")
    assert qpass.verify_onnx(graph, path, x).passed
    torch.testing.assert_close(OrtSession(path)(x), model(x), rtol=0, atol=0.1)


@pytest.mark.slow
def test_openvino_computes_what_torch_computes_and_in_integers(vit: nn.Module, images: Tensor, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    for config in ("w8a8", "w4a4"):
        graph = qpass.quantize_graph(vit, [images], config, progress=False)
        path = qpass.export_onnx(graph, tmp_path / "m.onnx", target="openvino")
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        compiled = openvino.Core().compile_model(str(path), "CPU", options)
        result, expected = torch.from_numpy(next(iter(compiled(images.numpy()).values()))), graph(images)
        error = (result - expected).square().sum() / expected.square().sum()
        assert error < 1e-3, "ties apart"
        kinds = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
        linears = [kind["runtimePrecision"].astype(str) for kind in kinds if kind["layerType"].astype(str) == "FullyConnected"]
        assert len(linears) == 10
        assert set(linears) == {"u8"}, config


@pytest.mark.slow
def test_bytes_are_clipped_behind_and_floats_before(vit: nn.Module, images: Tensor, tmp_path: Path) -> None:
    graph = qpass.quantize_graph(vit, [images], "mixed-w3a4", progress=False)
    for target, wanted in (("onnxruntime", {np.dtype(np.uint8), np.dtype(np.int8)}), ("openvino", {np.dtype(np.float32)})):
        model = onnx.load(qpass.export_onnx(graph, tmp_path / "m.onnx", target=target))
        constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        bounds = [constants[node.input[1]] for node in model.graph.node if node.op_type == "Clip"]
        assert {bound.dtype for bound in bounds} == wanted
        assert any("runs_of_3_bits" in name for name in constants) == (target == "onnxruntime")


def test_an_unknown_target_is_refused(quantized: fx.GraphModule, tmp_path: Path) -> None:
    with pytest.raises(LoweringError, match=r"no target is called 'openvin'; did you mean 'openvino'\?"):
        qpass.export_onnx(quantized, tmp_path / "m.onnx", target="openvin")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("weight_type", ["auto", "int8"])
def test_tensorrt_reads_no_uint8(weight_type: str) -> None:
    assert TARGETS["tensorrt"].stores_int8(weight_type)
    with pytest.raises(LoweringError, match="weight_type: TensorRT reads no uint8; leave it out, or take int8"):
        TARGETS["tensorrt"].stores_int8("uint8")
