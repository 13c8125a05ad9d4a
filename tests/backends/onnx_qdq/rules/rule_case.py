"""Applies a rewrite rule to a graph in onnx's text form, and compares the numbers with onnx's reference evaluator."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx.reference import ReferenceEvaluator

from qpass.backends.onnx_qdq.onnx_rule import OnnxRule
from qpass.backends.onnxruntime import OrtSession

CODES = """
    float sa = {0.02}, uint8 za = {120}, float sb = {0.03}, int8 zb = {3}, float c = {0.125}, float sy = {0.05}, uint8 zy = {100}
"""
PRODUCT = "fa = DequantizeLinear(a, sa, za)\n fb = DequantizeLinear(b, sb, zb)\n y = MatMul(fa, fb)"
INTEGER = "i = MatMulInteger(a, b, za, zb)\n f = Cast<to=1>(i)\n m = Mul(f, sa)\n"


def rewritten(rule: OnnxRule, text: str) -> tuple[onnx.ModelProto, onnx.ModelProto, int]:
    """Applies a rule to a model in onnx's text form; returns the model before and after, and the count."""
    before = onnx.parser.parse_model(text)
    model = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(before))
    count = rule.apply(model.graph).count
    common.RemoveUnusedNodesPass()(model)
    return before, ir.serde.serialize_model(model), count


def apply(rule: OnnxRule, signature: str, body: str, constants: str = CODES) -> tuple[list[str], int]:
    """Applies a rule to a graph in onnx's text form, checks the numbers, and returns its operators and the count."""
    text = f'<ir_version: 10, opset_import: ["": 21]> g {signature} <{constants}> {{ {body} }}'
    before, after, count = rewritten(rule, text)
    onnx.checker.check_model(after)
    generator = np.random.default_rng(0)
    feed = {}
    for value in before.graph.input:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        kind = value.type.tensor_type.elem_type
        random = generator.integers(0, 100, shape) if kind != onnx.TensorProto.FLOAT else generator.standard_normal(shape)
        feed[value.name] = random.astype(onnx.helper.tensor_dtype_to_np_dtype(kind))
    (expected,), (actual,) = ReferenceEvaluator(before).run(None, feed), ReferenceEvaluator(after).run(None, feed)
    if expected.dtype == np.uint8:
        assert np.abs(actual.astype(int) - expected.astype(int)).max() <= 1
        assert (actual != expected).mean() <= 0.01, "requantized on a tie"
    else:
        np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=2e-6)
    return [node.op_type for node in after.graph.node], count


def apply_contrib(rule: OnnxRule, signature: str, body: str, constants: str) -> tuple[list[str], int]:
    """As ``apply``, for operators that are onnxruntime's own: no evaluator but its session knows them."""
    text = f'<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]> g {signature} <{constants}> {{ {body} }}'
    before, after, count = rewritten(rule, text)
    generator = np.random.default_rng(0)
    feed = {}
    for value in before.graph.input:
        kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        ends = (-64, 64) if kind == np.int8 else (0, 255)  # wider int8 factors overflow on some processors
        feed[value.name] = generator.integers(*ends, [d.dim_value for d in value.type.tensor_type.shape.dim], kind, True)
    (expected,), (actual,) = ReferenceEvaluator(before).run(None, feed), OrtSession(after).run(feed).values()
    np.testing.assert_allclose(actual, expected, rtol=3e-6, atol=1e-5)
    return [node.op_type for node in after.graph.node], count
