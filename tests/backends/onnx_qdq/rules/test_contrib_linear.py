"""onnxruntime's own product with its bias inside."""

from __future__ import annotations

import pytest

from qpass.backends.onnx_qdq.rules.contrib_linear import contrib_linear
from tests.backends.onnx_qdq.rules.rule_case import CODES, apply_contrib

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
