"""Each operator is of one kind."""

from __future__ import annotations

import pytest

from qpass.backends.onnxruntime.operators import CONVERSIONS, FLOAT_PRODUCTS, INTEGER_PRODUCTS, MOVEMENTS, kind_of


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("MatMulInteger", "integer product"),
        ("QGemm", "integer product"),
        ("FusedMatMul", "float product"),
        ("Cast", "conversion"),
        ("Transpose", "movement"),
        ("Softmax", "float"),
        ("matmul", "float"),
    ],
)
def test_kinds(operator: str, kind: str) -> None:
    assert kind_of(operator) == kind


def test_no_operator_is_of_two_kinds() -> None:
    every = [*INTEGER_PRODUCTS, *FLOAT_PRODUCTS, *CONVERSIONS, *MOVEMENTS]
    assert len(set(every)) == len(every)
