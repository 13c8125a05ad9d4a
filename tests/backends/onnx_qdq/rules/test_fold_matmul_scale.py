"""A factor behind a product goes into its scale."""

from __future__ import annotations

from qpass.backends.onnx_qdq.rules.fold_matmul_scale import fold_matmul_scale
from tests.backends.onnx_qdq.rules.rule_case import INTEGER, apply


def test_a_scalar_behind_the_product_folds() -> None:
    ops, count = apply(fold_matmul_scale, "(uint8[3,4] a, int8[4,5] b) => (float[3,5] y)", INTEGER + "y = Mul(m, c)")
    assert (ops, count) == (["MatMulInteger", "Cast", "Mul"], 1)


def test_a_scaled_product_that_others_read_stays() -> None:
    body = INTEGER + "n = Mul(m, c)\n y = Add(n, m)"
    ops, count = apply(fold_matmul_scale, "(uint8[3,4] a, int8[4,5] b) => (float[3,5] y)", body)
    assert count == 0
    assert ops.count("Mul") == 2
