"""A low-rank branch becomes rows of the product beside it."""

from __future__ import annotations

import pytest

from qpass.backends.onnx_qdq.rules.residual_rows import residual_rows
from tests.backends.onnx_qdq.rules.rule_case import apply

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
