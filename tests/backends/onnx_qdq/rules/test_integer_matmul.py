"""A product of two activations becomes one of integers."""

from __future__ import annotations

from qpass.backends.onnx_qdq.rules.integer_matmul import integer_matmul
from tests.backends.onnx_qdq.rules.rule_case import PRODUCT, apply


def test_a_product_of_two_activations_becomes_integer() -> None:
    ops, count = apply(integer_matmul, "(uint8[2,3,4] a, int8[2,4,5] b) => (float[2,3,5] y)", PRODUCT)
    assert (ops, count) == (["MatMulInteger", "Cast", "Mul"], 1)


def test_the_second_factor_may_be_unsigned() -> None:
    ops, count = apply(integer_matmul, "(uint8[2,3,4] a, uint8[2,4,5] b) => (float[2,3,5] y)", PRODUCT.replace("zb", "za"))
    assert (ops, count) == (["MatMulInteger", "Cast", "Mul"], 1)
