"""Rewrite rules on ONNX graphs: the graph after, the numbers (onnx's reference evaluator), and what they leave alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common
import pytest
from onnx.reference import ReferenceEvaluator

from qpass.backends.onnx_qdq.rules.contrib_linear import contrib_linear
from qpass.backends.onnx_qdq.rules.contrib_matmul import contrib_matmul
from qpass.backends.onnx_qdq.rules.dequantize_after_movement import dequantize_after_movement
from qpass.backends.onnx_qdq.rules.dequantize_sums import dequantize_sums
from qpass.backends.onnx_qdq.rules.fold_matmul_scale import fold_matmul_scale
from qpass.backends.onnx_qdq.rules.integer_matmul import integer_matmul
from qpass.backends.onnx_qdq.rules.integer_output import integer_output
from qpass.backends.onnx_qdq.rules.log_softmax import log_softmax
from qpass.backends.onnx_qdq.rules.offset_matmul import offset_matmul
from qpass.backends.onnx_qdq.rules.residual_rows import residual_rows
from qpass.backends.onnxruntime import OrtSession

CODES = """
    float sa = {0.02}, uint8 za = {120}, float sb = {0.03}, int8 zb = {3}, float c = {0.125}, float sy = {0.05}, uint8 zy = {100}
"""


def apply(rule: Callable[[ir.Graph], int], signature: str, body: str, constants: str = CODES) -> tuple[list[str], int]:
    """Applies a rule to a graph in onnx's text form, checks the numbers, and returns its operators and the count."""
    text = f'<ir_version: 10, opset_import: ["": 21]> g {signature} <{constants}> {{ {body} }}'
    before = onnx.parser.parse_model(text)
    model = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(before))
    count = rule(model.graph)
    common.RemoveUnusedNodesPass()(model)
    after = ir.serde.serialize_model(model)
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
    return [node.op_type for node in model.graph], count


def test_log_of_softmax() -> None:
    ops, count = apply(log_softmax, "(float[2,5] x) => (float[2,5] y)", "p = Softmax<axis=-1>(x)\n y = Log(p)")
    assert (ops, count) == (["LogSoftmax"], 1)


def test_a_softmax_that_others_read_stays() -> None:
    ops, count = apply(log_softmax, "(float[2,5] x) => (float[2,5] y)", "p = Softmax<axis=-1>(x)\n l = Log(p)\n y = Mul(l, p)")
    assert (ops, count) == (["Softmax", "Log", "Mul"], 0)


def test_dequantize_moves_behind_transpose_and_reshape() -> None:
    body = "f = DequantizeLinear(a, sa, za)\n t = Transpose<perm=[1,0]>(f)\n r = Reshape(t, shape)\n y = Relu(r)"
    ops, count = apply(dequantize_after_movement, "(uint8[2,6] a) => (float[3,4] y)", body, CODES + ", int64[2] shape = {3, 4}")
    assert (ops, count) == (["Transpose", "Reshape", "DequantizeLinear", "Relu"], 2)


def test_a_scale_for_each_channel_does_not_move() -> None:
    body = "f = DequantizeLinear<axis=1>(a, sc)\n t = Transpose<perm=[1,0]>(f)\n y = Relu(t)"
    ops, count = apply(dequantize_after_movement, "(uint8[2,3] a) => (float[3,2] y)", body, "float[3] sc = {1.0, 2.0, 3.0}")
    assert (ops, count) == (["DequantizeLinear", "Transpose", "Relu"], 0)


PRODUCT = "fa = DequantizeLinear(a, sa, za)\n fb = DequantizeLinear(b, sb, zb)\n y = MatMul(fa, fb)"


def test_a_product_of_two_activations_becomes_integer() -> None:
    ops, count = apply(integer_matmul, "(uint8[2,3,4] a, int8[2,4,5] b) => (float[2,3,5] y)", PRODUCT)
    assert (ops, count) == (["MatMulInteger", "Cast", "Mul"], 1)


def test_the_second_factor_may_be_unsigned() -> None:
    ops, count = apply(integer_matmul, "(uint8[2,3,4] a, uint8[2,4,5] b) => (float[2,3,5] y)", PRODUCT.replace("zb", "za"))
    assert (ops, count) == (["MatMulInteger", "Cast", "Mul"], 1)


def test_an_offset_leaves_the_product_as_a_sum_of_rows() -> None:
    body = PRODUCT.replace("y = MatMul(fa, fb)", "o = Add(fa, c)\n y = MatMul(o, fb)")
    ops, count = apply(offset_matmul, "(uint8[2,3,4] a, int8[2,4,5] b) => (float[2,3,5] y)", body)
    assert (sorted(ops), count) == (sorted(["DequantizeLinear", "DequantizeLinear", "MatMul", "ReduceSum", "Mul", "Add"]), 1)


def test_an_offset_that_is_no_scalar_stays() -> None:
    body = PRODUCT.replace("y = MatMul(fa, fb)", "o = Add(fa, v)\n y = MatMul(o, fb)")
    _, count = apply(
        offset_matmul,
        "(uint8[2,3,4] a, int8[2,4,5] b) => (float[2,3,5] y)",
        body,
        CODES + ", float[4] v = {1.0, 2.0, 3.0, 4.0}",
    )
    assert count == 0


@pytest.mark.parametrize("reader", ["y = Softmax(m)", "y = Add(m, m)"])
def test_sums_that_are_not_moved_are_dequantized_at_once(reader: str) -> None:
    ops, count = apply(dequantize_sums, "(uint8[2,3,4] a, int8[2,4,5] b) => (float[2,3,5] y)", INTEGER + reader)
    assert count == 1
    assert ops[:2] == ["MatMulInteger", "DequantizeLinear"]


@pytest.mark.parametrize("reader", ["y = Transpose<perm=[0,2,1]>(m)", "y = Reshape(m, shape)"])
def test_sums_that_are_moved_stay_with_cast_and_mul(reader: str) -> None:
    shape = "float[2,5,3] y" if "Transpose" in reader else "float[6,5] y"
    ops, count = apply(
        dequantize_sums, f"(uint8[2,3,4] a, int8[2,4,5] b) => ({shape})", INTEGER + reader, CODES + ", int64[2] shape = {6, 5}"
    )
    assert count == 0
    assert ops[:3] == ["MatMulInteger", "Cast", "Mul"]


INTEGER = "i = MatMulInteger(a, b, za, zb)\n f = Cast<to=1>(i)\n m = Mul(f, sa)\n"


def test_a_scalar_behind_the_product_folds() -> None:
    ops, count = apply(fold_matmul_scale, "(uint8[3,4] a, int8[4,5] b) => (float[3,5] y)", INTEGER + "y = Mul(m, c)")
    assert (ops, count) == (["MatMulInteger", "Cast", "Mul"], 1)


def test_a_scaled_product_that_others_read_stays() -> None:
    body = INTEGER + "n = Mul(m, c)\n y = Add(n, m)"
    ops, count = apply(fold_matmul_scale, "(uint8[3,4] a, int8[4,5] b) => (float[3,5] y)", body)
    assert count == 0
    assert ops.count("Mul") == 2


@pytest.mark.parametrize("moves", ["", "Transpose"])
def test_a_product_that_is_quantized_gives_codes_at_once(moves: str) -> None:
    move = (
        "t = Transpose<perm=[1,0]>(m)\n"
        if moves
        else "t = Identity(m)\n".replace("Identity", "Reshape").replace("(m)", "(m, shape)")
    )
    shape = "[5,3]" if moves else "[3,5]"
    signature = f"(uint8[3,4] a, int8[4,5] b) => (uint8{shape} y)"
    ops, count = apply(
        integer_output, signature, INTEGER + move + "y = QuantizeLinear(t, sy, zy)", CODES + ", int64[2] shape = {3, 5}"
    )
    assert count == 1
    assert ops == ["QLinearMatMul", moves or "Reshape"]


def test_signed_codes_are_left_to_the_float_path() -> None:
    body = INTEGER + "q = QuantizeLinear(m, sy, zb)\n y = DequantizeLinear(q, sy, zb)"
    _, count = apply(integer_output, "(uint8[3,4] a, int8[4,5] b) => (float[3,5] y)", body)
    assert count == 0


RESIDUAL = (
    "float sx = {0.5}, uint8 zx = {128}, float st = {0.25}, int8[2,3] w = {1, -2, 3, 0, 2, -4}, float[3] sw = {0.5, 1.0, 2.0}, "
    "int8[3] zw = {0, 1, -1}, int8[1,3] b = {100, -90, 7}, float[3] sb = {0.0625, 0.125, 0.25}, float[3] bias = {1.0, 2.0, 3.0}"
)
FIRST = "fx = DequantizeLinear(x, sx, zx)\n fw = DequantizeLinear<axis=1>(w, sw, zw)\n p = MatMul(fx, fw)\n pb = Add(p, bias)\n"
SECOND = "ft = DequantizeLinear(t, st, zx)\n fb = DequantizeLinear<axis=1>(b, sb)\n q = MatMul(ft, fb)\n y = Add(pb, q)"


def test_a_low_rank_branch_becomes_rows_of_the_product_beside_it() -> None:
    signature = "(uint8[2,4,2] x, uint8[2,4,1] t) => (float[2,4,3] y)"
    ops, count = apply(residual_rows, signature, FIRST + SECOND, RESIDUAL)
    assert count == 1
    assert [ops.count(op) for op in ("MatMul", "Concat", "DequantizeLinear", "Add")] == [1, 2, 2, 1]


@pytest.mark.parametrize(
    ("zeros", "fits"), [("128, 128, 128", True), ("128, 127, 128", False)], ids=["one zero point", "several"]
)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("int8[2,3] w", "int8[2,3] w"),
        ("int8[2,3] w = {1, -2, 3, 0, 2, -4}", "uint8[2,3] w = {129, 126, 131, 128, 130, 124}"),
    ],
    ids=["weight of few bits", "weight of 8 bits"],
)
def test_rows_take_the_type_of_the_branch(old: str, new: str, zeros: str, fits: bool) -> None:
    constants = RESIDUAL.replace("int8[1,3] b = {100, -90, 7}", f"uint8[1,3] b = {{228, 38, 135}}, uint8[3] zo = {{{zeros}}}")
    constants = constants.replace(old, new)
    if new.startswith("uint8"):
        constants = constants.replace("int8[3] zw = {0, 1, -1}", "uint8[3] zw = {128, 129, 127}")
    body = (FIRST + SECOND).replace("(b, sb)", "(b, sb, zo)")
    ops, count = apply(residual_rows, "(uint8[2,4,2] x, uint8[2,4,1] t) => (float[2,4,3] y)", body, constants)
    assert count == fits
    assert ops.count("MatMul") == (1 if fits else 2)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ft = DequantizeLinear(t, st, zx)", "ft = DequantizeLinear(t, st, zt)"),
        ("sb = {0.0625, 0.125, 0.25}", "sb = {0.0625, 0.125, 0.2}"),
        ("sb = {0.0625, 0.125, 0.25}", "sb = {0.03125, 0.0625, 0.125}, int8 unused = {0}"),
        ("y = Add(pb, q)", "r = Add(pb, q)\n y = Add(r, q)"),
    ],
    ids=["another zero point", "no common factor", "too great a factor", "read twice"],
)
def test_a_branch_that_does_not_fit_stays(old: str, new: str) -> None:
    constants = RESIDUAL.replace(old, new)  # the greatest code times a factor of 32 is 128, one more than an int8 holds
    body = (FIRST + SECOND).replace(old, new)
    ops, count = apply(
        residual_rows, "(uint8[2,4,2] x, uint8[2,4,1] t) => (float[2,4,3] y)", body, constants + ", uint8 zt = {100}"
    )
    assert count == 0
    assert ops.count("MatMul") == 2


def apply_contrib(rule: Callable[[ir.Graph], int], signature: str, body: str, constants: str) -> tuple[list[str], int]:
    """As ``apply``, for operators that are onnxruntime's own: no evaluator but its session knows them."""
    text = f'<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]> g {signature} <{constants}> {{ {body} }}'
    before = onnx.parser.parse_model(text)
    model = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(before))
    count = rule(model.graph)
    common.RemoveUnusedNodesPass()(model)
    after = ir.serde.serialize_model(model)
    generator = np.random.default_rng(0)
    feed = {}
    for value in before.graph.input:
        kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        ends = (-64, 64) if kind == np.int8 else (0, 255)  # wider int8 factors overflow on some processors
        feed[value.name] = generator.integers(*ends, [d.dim_value for d in value.type.tensor_type.shape.dim], kind, True)
    (expected,), (actual,) = ReferenceEvaluator(before).run(None, feed), OrtSession(after).run(feed).values()
    np.testing.assert_allclose(actual, expected, rtol=3e-6, atol=1e-5)
    return [node.op_type for node in after.graph.node], count


@pytest.mark.parametrize(("scale", "count"), [("sa", 1), ("v", 0)], ids=["one scale", "a scale for each column"])
def test_contrib_scales_inside_the_product(scale: str, count: int) -> None:
    body = f"i = MatMulInteger(a, b, za, zb)\n f = Cast<to=1>(i)\n y = Mul(f, {scale})"
    constants = f"{CODES}, float[5] v = {{1.0, 2.0, 3.0, 4.0, 5.0}}"
    found = apply_contrib(contrib_matmul, "(uint8[2,3,4] a, int8[2,4,5] b) => (float[2,3,5] y)", body, constants)
    assert found == ((["MatMulIntegerToFloat"], 1) if count else (["MatMulInteger", "Cast", "Mul"], 0))


LINEAR = """int8[2,3] w = {1, -2, 3, 0, 2, -4}, float[3] sw = {0.01, 0.02, 0.03}, int8[3] zw = {1, 0, -2},
    uint8[2,3] u = {255, 0, 131, 128, 130, 124}, uint8[3] zu = {128, 129, 127},
    float[3] bias = {0.5, -1.0, 2.0}, float[1,1,3] bias3 = {0.5, -1.0, 2.0}, float one = {1.0}"""


@pytest.mark.parametrize("weight", ["w, sw", "w, sw, zw", "u, sw, zu"])
@pytest.mark.parametrize(("bias", "count"), [("bias", 1), ("bias3", 1), ("one", 0), ("m", 0)])
def test_contrib_adds_the_bias_inside_the_product(weight: str, bias: str, count: int) -> None:
    """A constant of one number is no bias, and another value neither."""
    body = f"""x = DequantizeLinear(a, sa, za)
      v = DequantizeLinear<axis=1>({weight})
      m = MatMul(x, v)
      y = Add(m, {bias})"""
    operators, found = apply_contrib(contrib_linear, "(uint8[2,4,2] a) => (float[2,4,3] y)", body, f"{CODES}, {LINEAR}")
    assert found == count
    assert (operators == ["MatMulIntegerToFloat"]) == bool(count)
