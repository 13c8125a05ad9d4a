"""The logarithm of a Softmax becomes one operator."""

from __future__ import annotations

from qpass.backends.onnx_qdq.rules.log_softmax import log_softmax
from tests.backends.onnx_qdq.rules.rule_case import apply


def test_log_of_softmax() -> None:
    ops, count = apply(log_softmax, "(float[2,5] x) => (float[2,5] y)", "p = Softmax<axis=-1>(x)\n y = Log(p)")
    assert (ops, count) == (["LogSoftmax"], 1)


def test_a_softmax_that_others_read_stays() -> None:
    ops, count = apply(log_softmax, "(float[2,5] x) => (float[2,5] y)", "p = Softmax<axis=-1>(x)\n l = Log(p)\n y = Mul(l, p)")
    assert (ops, count) == (["Softmax", "Log", "Mul"], 0)
