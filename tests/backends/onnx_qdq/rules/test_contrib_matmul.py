"""onnxruntime's own product with its scale inside."""

from __future__ import annotations

import pytest

from qpass.backends.onnx_qdq.rules.contrib_matmul import contrib_matmul
from tests.backends.onnx_qdq.rules.rule_case import CODES, apply_contrib


@pytest.mark.parametrize(("scale", "count"), [("sa", 1), ("v", 0)], ids=["one scale", "a scale for each column"])
def test_contrib_scales_inside_the_product(scale: str, count: int) -> None:
    body = f"i = MatMulInteger(a, b, za, zb)\n f = Cast<to=1>(i)\n y = Mul(f, {scale})"
    constants = f"{CODES}, float[5] v = {{1.0, 2.0, 3.0, 4.0, 5.0}}"
    found = apply_contrib(contrib_matmul, "(uint8[2,3,4] a, int8[2,4,5] b) => (float[2,3,5] y)", body, constants)
    assert found == ((["MatMulIntegerToFloat"], 1) if count else (["MatMulInteger", "Cast", "Mul"], 0))
