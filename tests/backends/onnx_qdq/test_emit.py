"""Nodes that replace another: their names, constants that are there once, and what they take over."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from qpass.backends.onnx_qdq.emit import Emitter


def relu() -> ir.Model:
    text = '<ir_version: 10, opset_import: ["": 21]> g (float[2,3] x) => (float[2,3] y) { r = Relu(x)\n y = Neg(r) }'
    return ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)))


def test_new_nodes_take_the_place_of_the_old_one() -> None:
    model = relu()
    node = model.graph.node(0)
    emit = Emitter(model.graph, "p")
    doubled = emit.op("Mul", [node.inputs[0], emit.constant("two", np.float32([2]))])
    emit.replace(node, emit.op("Abs", [doubled], name="last"))
    assert [each.op_type for each in model.graph] == ["Mul", "Abs", "Neg"]
    assert [each.name for each in model.graph][:2] == ["p.mul_0.node", "last.node"]
    last = model.graph.node(1).outputs[0]
    assert (last.shape, last.dtype) == (ir.Shape([2, 3]), ir.DataType.FLOAT), "those of what it replaces"
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    (found,) = ReferenceEvaluator(ir.serde.serialize_model(model)).run(None, {"x": x})
    np.testing.assert_allclose(found, -np.abs(2 * x), rtol=1e-6)


def test_a_constant_of_one_name_is_there_once() -> None:
    model = relu()
    emit = Emitter(model.graph, "p")
    first, again = emit.constant("axes", [0, 1]), emit.constant("axes", [5])
    assert first is again
    assert first.name == "p.axes"
    assert first.const_value is not None
    assert first.const_value.numpy().tolist() == [0, 1]
    assert first.dtype == ir.DataType.INT64
    assert list(model.graph.initializers) == ["p.axes"]


def test_a_constant_may_be_of_four_bits() -> None:
    import ml_dtypes

    emit = Emitter(relu().graph, "p")
    value = emit.constant("codes", np.array([-8, 7], ml_dtypes.int4), ir.DataType.INT4)
    assert value.dtype == ir.DataType.INT4
    assert value.const_value is not None
    assert value.const_value.nbytes == 1
