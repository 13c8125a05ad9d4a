from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from qpass.backends.onnx_qdq.capabilities import ir_version_for
from qpass.backends.onnx_qdq.pack_weights import codes_per_index, pack, pack_weights
from qpass.backends.onnxruntime import OrtSession

#: Bits in the file for each code: runs of 4, 5 and 3 codes in 8, 16 and 16 bits, INT4, and four bits in INT4 with a run of the rest.
STORED_BITS = {2: 2, 3: 16 / 5, 4: 4, 5: 16 / 3, 6: 4 + 2, 7: 4 + 16 / 5, 8: 8}


def packed(codes: np.ndarray, opset: int, *, tables: bool = True) -> onnx.ModelProto:
    """A graph whose output is one weight, packed."""
    weight = ir.Value(
        name="layer.weight_codes",
        type=ir.TensorType(ir.DataType.INT8),
        shape=ir.Shape(codes.shape),
        const_value=ir.Tensor(codes, name="layer.weight_codes"),
    )
    node = ir.node("Identity", [weight])
    node.outputs[0].name, node.outputs[0].dtype, node.outputs[0].shape = "y", ir.DataType.INT8, ir.Shape(codes.shape)
    graph = ir.Graph([], node.outputs, nodes=[node], initializers=[weight], opset_imports={"": opset}, name="packed")
    pack_weights(graph, opset, tables=tables)
    model = ir.to_proto(ir.Model(graph, ir_version=ir_version_for(opset)))
    onnx.checker.check_model(model, full_check=True)
    return model


def stored_bytes(model: onnx.ModelProto) -> int:
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


@pytest.mark.parametrize("columns", [60, 61])
@pytest.mark.parametrize("opset", [20, 21, 25])
@pytest.mark.parametrize("bits", STORED_BITS)
def test_every_code_comes_back(bits: int, opset: int, columns: int) -> None:
    """In onnxruntime and in onnx's reference, with every code of the width among them."""
    every = np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1))
    codes = np.concatenate([every, np.random.default_rng(bits).choice(every, 100 * columns - len(every))])
    codes = codes.astype(np.int8).reshape(100, columns)
    model = packed(codes, opset)
    assert np.array_equal(OrtSession(model).run({})["y"], codes)
    assert np.array_equal(ReferenceEvaluator(model).run(None, {})[0], codes)
    if opset >= 21 and columns == 60:
        overhead = 150  # constants of the unpacking, whatever the weight's size
        assert stored_bytes(model) <= codes.size * STORED_BITS[bits] / 8 + overhead


@given(st.data())
def test_runs_are_their_codes_in_a_number_system(data: st.DataObject) -> None:
    """The first code of a run is the lowest digit; a signed code's digit is its distance from the least one."""
    bits, signed = data.draw(st.integers(2, 5)), data.draw(st.booleans())
    least = -(2 ** (bits - 1)) if signed else 0
    rows, columns = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 17))
    row = st.lists(st.integers(least, least + 2**bits - 1), min_size=columns, max_size=columns)
    codes = np.array(data.draw(st.lists(row, min_size=rows, max_size=rows)), np.int8)
    count, _ = codes_per_index(bits)
    indices = pack(codes, bits, signed=signed)
    assert indices.shape == (rows, -(-columns // count))
    for r in range(rows):
        digits = [(int(indices[r, c // count]) // (2**bits) ** (c % count)) % 2**bits for c in range(columns)]
        assert [digit + least for digit in digits] == codes[r].tolist()


@pytest.mark.parametrize(("bits", "type_"), [(3, "INT4"), (4, "INT4"), (5, "INT8")])
def test_without_tables_codes_take_the_next_wider_type(bits: int, type_: str) -> None:
    codes = np.random.default_rng(0).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (8, 6)).astype(np.int8)
    model = packed(codes, 21, tables=False)
    (stored,) = model.graph.initializer
    assert stored.data_type == getattr(onnx.TensorProto, type_)
    assert np.array_equal(OrtSession(model).run({})["y"], codes)


def test_weights_share_a_table_that_the_file_does_not_hold() -> None:
    codes = np.random.default_rng(0).integers(-4, 4, (300, 300)).astype(np.int8)
    values = []
    for name in "ab":
        tensor = ir.Tensor(codes, name=f"{name}.weight_codes")
        kind, shape = ir.TensorType(ir.DataType.INT8), ir.Shape(codes.shape)
        values.append(ir.Value(name=tensor.name, type=kind, shape=shape, const_value=tensor))
    node = ir.node("Concat", values, {"axis": 0})
    graph = ir.Graph([], node.outputs, nodes=[node], initializers=values, opset_imports={"": 21}, name="two")
    assert pack_weights(graph, 21) == 2
    operators = [node.op_type for node in graph]
    assert operators.count("Range") == 1
    assert operators.count("Gather") == 2
    largest = max(value.const_value.size for value in graph.initializers.values() if value.const_value is not None)
    assert largest == codes.size // 5
