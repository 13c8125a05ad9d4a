from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, fx, nn

import qpass
from qpass.backends.onnx_qdq import export_float
from qpass.backends.onnx_qdq.capabilities import explain, int8_matmul_is_exact, ir_version_for, loads
from qpass.backends.onnx_qdq.write import write_model
from qpass.backends.onnxruntime import OrtSession
from qpass.errors import LoweringError, QPassError
from qpass.graph.capture.trace import trace
from qpass.graph.facts import update_facts
from qpass.nn import QuantizedLayer
from tests.models import DictModel


def test_opset_and_ir_version_are_what_onnxruntime_loads(exported: Path) -> None:
    model = onnx.load(exported)
    assert model.opset_import[0].version == 21
    assert model.ir_version == ir_version_for(21)
    assert loads(21, model.ir_version)
    assert not loads(21, 99)
    reason = {entry.key: entry.value for entry in model.metadata_props}["qpass.format"]
    assert reason.startswith(f"opset 21 with 4-bit integers, the least with them; IR version {model.ir_version}, the one that")
    assert f"; tried in onnxruntime {onnxruntime.__version__}; 8-bit factors " in reason
    assert "without 4-bit integers" in explain(20)


def test_the_exporter_s_notes_are_not_in_the_file(exported: Path, vit: nn.Module, images: Tensor, tmp_path: Path) -> None:
    for path in (exported, export_float(trace(vit, (images,)), tmp_path / "float.onnx")):
        graph = onnx.load(path).graph
        named = [*graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output]
        assert not [each.name for each in named if each.metadata_props or each.doc_string]
        assert len(graph.node) > 50


def test_a_runtime_that_loads_older_ir_versions_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    newest = ir_version_for(21)
    ir_version_for.cache_clear()
    monkeypatch.setattr("qpass.backends.onnx_qdq.capabilities.loads", lambda opset, version: version < newest)
    assert ir_version_for(21) == newest - 1
    assert f"IR version {newest - 1}, the newest that onnxruntime" in explain(21)
    ir_version_for.cache_clear()


def test_another_opset(quantized: fx.GraphModule, images: Tensor, tmp_path: Path) -> None:
    path = qpass.export_onnx(quantized, tmp_path / "m.onnx", opset=20)
    assert onnx.load(path).opset_import[0].version == 20
    assert qpass.verify_onnx(quantized, path, images).passed


@pytest.mark.parametrize("opset", [7, 99])
def test_an_opset_out_of_reach_is_refused_and_leaves_nothing(quantized: fx.GraphModule, tmp_path: Path, opset: int) -> None:
    with pytest.raises(LoweringError, match=f"opset {opset}; expected an opset from 20"):
        qpass.export_onnx(quantized, tmp_path / "m.onnx", opset=opset)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_four_bits_are_packed_at_any_opset(quantized_4bit: fx.GraphModule, images: Tensor, tmp_path: Path) -> None:
    """Opset 20 has no INT4 tensors."""
    paths = [qpass.export_onnx(quantized_4bit, tmp_path / f"{opset}.onnx", opset=opset) for opset in (20, 21)]
    stored = [sum(len(tensor.raw_data) for tensor in onnx.load(path).graph.initializer) for path in paths]
    assert stored[0] < 1.05 * stored[1]
    assert qpass.verify_onnx(quantized_4bit, paths[0], images).passed


def test_names_of_dict_inputs_and_outputs_are_kept(tmp_path: Path) -> None:
    model, batch = DictModel().eval(), {"values": torch.randn(4, 8), "scale": torch.rand(4, 1)}
    graph = qpass.quantize_graph(model, [batch], progress=False)
    path = qpass.export_onnx(graph, tmp_path / "m.onnx")
    session = OrtSession(path)
    assert session.input_names == ["values", "scale"]
    assert session.output_names == ["logits", "hidden"]
    assert qpass.verify_onnx(graph, path, batch).passed


@pytest.mark.slow(after=2)
@pytest.mark.parametrize(("bits", "weight_type"), [*((bits, "int8") for bits in range(2, 9)), (7, "uint8"), (8, "uint8")])
def test_weights_of_any_width_are_stored_as_integers(bits: int, weight_type: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(33, 17), nn.GELU(), nn.Linear(17, 5)).eval(), torch.randn(16, 33)
    graph = qpass.quantize_graph(model, [x], f"w{bits}a8", progress=False)
    path = qpass.export_onnx(graph, tmp_path / "m.onnx", weight_type=weight_type)
    exported = onnx.load(path)
    offset, kind = (128, onnx.TensorProto.UINT8) if bits == 8 and weight_type == "uint8" else (0, onnx.TensorProto.INT8)
    layers = {name: module.codes.numpy().T for name, module in graph.named_children() if isinstance(module, QuantizedLayer)}
    weights = [node.input[0] for node in exported.graph.node if node.op_type == "DequantizeLinear" and node.attribute]
    exported.graph.output.extend(onnx.helper.make_tensor_value_info(name, kind, None) for name in weights)
    computed = ReferenceEvaluator(exported).run(weights, {"input": x.numpy()})
    stored = [codes.astype(int) + offset for codes in layers.values()]
    assert all(np.array_equal(found, codes) for found, codes in zip(computed, stored, strict=True))
    if bits < 8 or weight_type == "uint8" or int8_matmul_is_exact():
        assert qpass.verify_onnx(graph, path, x).passed


@pytest.mark.slow
def test_a_fixed_batch_still_runs_on_integers(tmp_path: Path, vit: nn.Module, images: Tensor) -> None:
    """With all dims known onnxruntime would turn MatMul + Add into a float Gemm: the bias's shape prevents it."""
    from qpass.backends.onnxruntime.latency import fusion_of

    graph = qpass.quantize_graph(vit, [images[:2]], progress=False)
    update_facts(graph, dynamic_batch=False)
    fusion = fusion_of(qpass.export_onnx(graph, tmp_path / "m.onnx"))
    assert fusion.float == {}
    assert fusion.unfused == []


def test_float_export_is_the_float_model(vit: nn.Module, images: Tensor, tmp_path: Path) -> None:
    path = export_float(trace(vit, (images,)), tmp_path / "float.onnx")
    torch.testing.assert_close(OrtSession(path)(images), vit(images), rtol=1e-4, atol=1e-4)


def test_bad_paths_are_refused_before_work(quantized: fx.GraphModule, tmp_path: Path) -> None:
    with pytest.raises(LoweringError, match="the folder does not exist; create it first"):
        qpass.export_onnx(quantized, tmp_path / "missing" / "m.onnx")
    with pytest.raises(LoweringError, match="is a folder"):
        qpass.export_onnx(quantized, tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(quantized: fx.GraphModule) -> None:
    """/proc takes no files, not even from root."""
    with pytest.raises(LoweringError, match="/proc: the folder cannot be written to"):
        qpass.export_onnx(quantized, "/proc/m.onnx")


def test_a_float_graph_is_refused(vit: nn.Module, images: Tensor, tmp_path: Path) -> None:
    with pytest.raises(QPassError, match=r"export_onnx: got a .*; expected what quantize_graph or load returned"):
        qpass.export_onnx(trace(vit, (images,)), tmp_path / "m.onnx")


def test_an_operator_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    class Puts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x).put(torch.tensor([0]), torch.tensor([3.0]))

    graph = qpass.quantize_graph(Puts().eval(), [torch.randn(4, 8)], progress=False)
    with pytest.raises(LoweringError, match=r"^Puts, aten\.put\.default: .*No ONNX function found for .*put"):
        qpass.export_onnx(graph, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(exported: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.onnx"
    target.write_bytes(b"old")
    model = ir.load(exported)
    next(node for node in model.graph if node.op_type == "Softmax").op_type = "NoSuchOperator"
    with pytest.raises(LoweringError, match=r"m\.onnx: onnx\.checker refuses"):
        write_model(model, target)
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_large_weights_go_beside_the_file(exported: Path, images: Tensor, tmp_path: Path) -> None:
    write_model(ir.load(exported), tmp_path / "m.onnx", external_bytes=1000)
    assert {p.name for p in tmp_path.iterdir()} == {"m.onnx", "m.onnx.data"}
    assert torch.equal(OrtSession(tmp_path / "m.onnx")(images), OrtSession(exported)(images))


@pytest.mark.slow
def test_saturation_clips_codes_of_tensors_that_are_bounded_below(vit: nn.Module, images: Tensor, tmp_path: Path) -> None:
    """Behind a Softmax and a GELU the greatest code is 255: QuantizeLinear clips by itself. Elsewhere a Clip does."""
    config = {"preset": "w4a4", "post_softmax": {"quantizer": "uniform", "tabulated": False}}
    graph = qpass.quantize_graph(vit, [images], config, progress=False)
    path = qpass.export_onnx(graph, tmp_path / "m.onnx")
    nodes = onnx.load(path).graph.node
    producers = {name: node.op_type for node in nodes for name in node.output}
    clipped = {node.input[0] for node in nodes if node.op_type == "Clip"}
    behind = {"Softmax": [False, False], "Gelu": [False, False], "LayerNormalization": [True] * 4}
    for operator, wanted in behind.items():
        found = [
            node.output[0] in clipped
            for node in nodes
            if node.op_type == "QuantizeLinear" and producers.get(node.input[0]) == operator
        ]
        assert found == wanted, operator
    assert qpass.verify_onnx(graph, path, images * 10).passed, "far beyond the calibrated range too"
