"""A product that is quantized gives codes."""

from __future__ import annotations

import pytest

from qpass.backends.onnx_qdq.rules.integer_output import integer_output
from tests.backends.onnx_qdq.rules.rule_case import CODES, INTEGER, apply


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
