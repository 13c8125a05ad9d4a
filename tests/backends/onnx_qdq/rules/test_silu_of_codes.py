"""A SiLU of codes is read once, so that onnxruntime runs it as one operator."""

from __future__ import annotations

import pytest

from qpass.backends.onnx_qdq.rules.silu_of_codes import contrib_silu, silu_of_codes
from tests.backends.onnx_qdq.rules.rule_case import apply, apply_contrib

CODES = "float s = {0.05}, uint8 z = {7}"
SIGNATURE = "(uint8[2,3] a) => (float[2,3] y)"
BEFORE = "x = DequantizeLinear(a, s, z) g = Sigmoid(x) "


@pytest.mark.parametrize("factors", ["x, g", "g, x"])
def test_a_silu_of_codes_becomes_one_operator(factors: str) -> None:
    body = f"{BEFORE} y = Mul({factors})"
    assert apply(silu_of_codes, SIGNATURE, body, CODES) == (["DequantizeLinear", "Sum", "Sigmoid", "Mul"], 1)
    assert apply_contrib(contrib_silu, SIGNATURE, body, CODES) == (["DequantizeLinear", "QuickGelu"], 1)


@pytest.mark.parametrize(
    "body",
    [
        "x = DequantizeLinear(a, s, z) w = Neg(x) g = Sigmoid(w) y = Mul(x, g)",
        "x = DequantizeLinear(a, s, z) w = Neg(x) g = Sigmoid(w) y = Mul(w, g)",
        f"{BEFORE} h = Mul(x, g) y = Add(h, g)",
    ],
    ids=["of another tensor", "of floats", "with another reader"],
)
def test_others_are_left_alone(body: str) -> None:
    for rule in (silu_of_codes, contrib_silu):
        assert apply(rule, SIGNATURE, body, CODES)[1] == 0
