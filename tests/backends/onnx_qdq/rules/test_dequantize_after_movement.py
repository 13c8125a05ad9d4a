"""Bytes are moved, not floats."""

from __future__ import annotations

from qpass.backends.onnx_qdq.rules.dequantize_after_movement import dequantize_after_movement
from tests.backends.onnx_qdq.rules.rule_case import CODES, apply


def test_dequantize_moves_behind_transpose_and_reshape() -> None:
    body = "f = DequantizeLinear(a, sa, za)\n t = Transpose<perm=[1,0]>(f)\n r = Reshape(t, shape)\n y = Relu(r)"
    ops, count = apply(dequantize_after_movement, "(uint8[2,6] a) => (float[3,4] y)", body, CODES + ", int64[2] shape = {3, 4}")
    assert (ops, count) == (["Transpose", "Reshape", "DequantizeLinear", "Relu"], 2)


def test_a_scale_for_each_channel_does_not_move() -> None:
    body = "f = DequantizeLinear<axis=1>(a, sc)\n t = Transpose<perm=[1,0]>(f)\n y = Relu(t)"
    ops, count = apply(dequantize_after_movement, "(uint8[2,3] a) => (float[3,2] y)", body, "float[3] sc = {1.0, 2.0, 3.0}")
    assert (ops, count) == (["DequantizeLinear", "Transpose", "Relu"], 0)
