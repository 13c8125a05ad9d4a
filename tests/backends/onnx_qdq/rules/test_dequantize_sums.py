"""Sums of integers become floats by one operator."""

from __future__ import annotations

import pytest

from qpass.backends.onnx_qdq.rules.dequantize_sums import dequantize_sums
from tests.backends.onnx_qdq.rules.rule_case import CODES, INTEGER, apply


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
