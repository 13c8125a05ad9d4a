"""An offset of a factor leaves the product."""

from __future__ import annotations

from qpass.backends.onnx_qdq.rules.offset_matmul import offset_matmul
from tests.backends.onnx_qdq.rules.rule_case import CODES, PRODUCT, apply


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
