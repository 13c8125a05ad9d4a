"""Codebooks in a file: tables of bytes before integer products, and weights that are expanded at load."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, fx, nn

import qpass
from qpass.backends.onnxruntime import OrtSession
from qpass.backends.onnxruntime.excerpt import excerpt
from qpass.backends.onnxruntime.latency import fusion_of
from qpass.errors import VerifyError
from qpass.nn import QuantizedLayer, QuantizedLinear
from qpass.quantizers import ByteTable, WeightCodebook
from tests.tampering import with_initializer

FREE = {"quantizer": "codebook", "symmetric": False}


class TwoLayers(nn.Module):
    """Linears whose sizes fill neither bytes nor groups of channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(21, 19), nn.Linear(19, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.nn.functional.gelu(self.first(x)))  # type: ignore[no-any-return]


def inputs() -> Tensor:
    return torch.randn(64, 5, 21, generator=torch.Generator().manual_seed(1))


def quantized_layers(bits: int, channels: int = 1) -> fx.GraphModule:
    weight = {**FREE, "bits": bits, "channels_per_table": channels}
    return qpass.quantize_graph(TwoLayers().eval(), [inputs()], {"preset": "w4a8", "weight": weight}, progress=False)


def expanded(model: onnx.ModelProto, name: str, bytes_as: int) -> np.ndarray:
    """Computes a value that depends on constants only."""
    part = excerpt(model, [name])
    part.graph.output[0].type.tensor_type.elem_type = bytes_as
    return OrtSession(part).run({})[name]


def weights_of(path: Path, bytes_as: int) -> list[tuple[np.ndarray, str]]:
    """Returns the bytes of each weight times its scale, and the operator that yields the bytes."""
    model, found = onnx.load(path), []
    producers = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and len(constants.get(node.input[1], np.zeros(0)).shape) == 1:
            name = node.input[0]
            levels = constants[name] if name in constants else expanded(model, name, bytes_as)
            zero = constants[node.input[2]].astype(np.int32) if len(node.input) > 2 else 0
            producer = producers[name].op_type if name in producers else "initializer"
            found.append(((levels.astype(np.int32) - zero) * constants[node.input[1]].astype(np.float64), producer))
    return found


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("weight_type", ["int8", "uint8"])
@pytest.mark.parametrize(("bits", "channels"), [(2, 1), (3, 4), (4, 0), (5, 3), (7, 1)])
def test_the_file_expands_to_the_weights_of_the_graph(bits: int, channels: int, weight_type: str, tmp_path: Path) -> None:
    graph = quantized_layers(bits, channels)
    for target, producer in (("onnxruntime", "GatherElements"), ("openvino", "initializer")):
        path = qpass.export_onnx(graph, tmp_path / f"{target}.onnx", target=target, weight_type=weight_type)
        found = weights_of(path, TensorProto.INT8 if weight_type == "int8" else TensorProto.UINT8)
        layers = [module for module in graph.modules() if isinstance(module, QuantizedLinear)]
        assert [operator for _, operator in found] == [producer] * len(layers) == [producer] * 2
        for (weight, _), layer in zip(found, layers, strict=True):
            np.testing.assert_allclose(weight.T, layer.quantized_weight().detach().double().numpy(), rtol=1e-6)


@pytest.mark.slow(after=1)
@pytest.mark.parametrize(("bits", "channels"), [(3, 1), (2, 4)])
def test_files_of_codebook_weights_verify(bits: int, channels: int, tmp_path: Path) -> None:
    graph = quantized_layers(bits, channels)
    for weight_type in ("int8", "uint8"):
        path = qpass.export_onnx(graph, tmp_path / "model.onnx", weight_type=weight_type)
        assert qpass.verify_onnx(graph, path, inputs()[:8]).passed


def test_products_are_integer_and_nothing_of_a_weight_is_left_to_run(
    quantized_codebook: fx.GraphModule, exported_codebook: Path
) -> None:
    fusion = fusion_of(exported_codebook)
    assert sum(fusion.integer.values()) == 1 + 9 + 4  # patch embedding, Linears, attention matmuls
    assert fusion.float == {}
    tables = [module for module in quantized_codebook.modules() if isinstance(module, ByteTable)]
    left = Counter(OrtSession(exported_codebook, keep_graph=True).operators)
    assert left["GatherElements"] == len(tables)


def test_codes_have_three_bits_and_tables_a_byte_for_each_level(
    exported_codebook: Path, quantized_codebook: fx.GraphModule
) -> None:
    layers = {name: module for name, module in quantized_codebook.named_modules() if isinstance(module, QuantizedLayer)}
    stored: Counter[str] = Counter()
    for tensor in onnx.load(exported_codebook).graph.initializer:
        owner, _, role = tensor.name.partition(".")
        if owner in layers and role.startswith(("weight_codes.runs", "weight_tables")):
            stored[owner] += len(tensor.raw_data)
    for name, layer in layers.items():
        rows, columns = layer.weight_shape[0], layer.weight_shape[1:].numel()
        assert isinstance(layer.quantizer, WeightCodebook)
        assert stored[name] <= columns * -(-rows // 5) * 2 + 8 * rows, "runs of five codes in two bytes"


def test_the_report_names_the_bits_of_codes(quantized_codebook: fx.GraphModule) -> None:
    report = qpass.quantization_report(quantized_codebook)
    rows = [row for row in report.tensors if row.quantizer == "Codebook"]
    assert len(rows) == len(report.tensors) - 1, "all but the network's input"
    for row in rows:
        assert row.bits == 3
        assert len(set(row.levels)) <= 8
    assert {layer.weight_bits for layer in report.layers} == {3, None}


@pytest.mark.parametrize(("name", "place"), [("table", 0), ("table", 120), ("table", 255), ("weight_tables", 3)])
def test_a_changed_entry_of_a_table_is_refused(
    name: str, place: int, quantized_codebook: fx.GraphModule, exported_codebook: Path, images: Tensor, tmp_path: Path
) -> None:
    model = onnx.load(exported_codebook)
    index = next(i for i, tensor in enumerate(model.graph.initializer) if tensor.name.endswith(f".{name}"))
    tensor = model.graph.initializer[index]
    table = numpy_helper.to_array(tensor).copy()
    table.flat[place] = int(table.flat[place]) + (1 if table.flat[place] < 100 else -1)
    changed = with_initializer(model, index, numpy_helper.from_array(table, tensor.name))
    assert tensor.data_type in (TensorProto.INT8, TensorProto.UINT8)
    onnx.save(changed, tmp_path / "changed.onnx")
    with pytest.raises(VerifyError, match="its output is"):
        qpass.verify_onnx(quantized_codebook, tmp_path / "changed.onnx", images)
