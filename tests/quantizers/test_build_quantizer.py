"""What a spec asks for is what is built, and no more."""

from __future__ import annotations

from typing import Any

import pytest

from qpass.config import QuantSpec
from qpass.quantizers import Quantizer, build_quantizer

PERCENTILES = (0.9, 0.95)
CASES: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    ({"quantizer": "dynamic-focus", "code_zero": "zero"}, "DynamicFocus", {"code_zero": "zero"}),
    ({"quantizer": "dynamic-focus", "code_zero": "snapped"}, "DynamicFocus", {"code_zero": "snapped"}),
    ({"quantizer": "shift-log2", "exponent_round": True}, "ShiftLog2", {"exponent_round": True}),
    ({"quantizer": "shift-log2"}, "ShiftLog2", {"exponent_round": False}),
    ({"quantizer": "tan"}, "Tan", {}),
    ({"quantizer": "log2", "percentiles": PERCENTILES}, "Log2", {"percentiles": PERCENTILES}),
    ({"quantizer": "log-sqrt2", "percentiles": PERCENTILES}, "LogSqrt2", {"percentiles": PERCENTILES}),
]


def build(fields: dict[str, Any], **options: Any) -> Quantizer:
    return build_quantizer(QuantSpec(**fields), **options)


@pytest.mark.parametrize("bits", [3, 8])
@pytest.mark.parametrize(("fields", "kind", "expected"), CASES)
def test_quantizers_of_the_softmax_output(fields: dict[str, Any], kind: str, expected: dict[str, Any], bits: int) -> None:
    quantizer = build({"bits": bits, **fields})
    assert (type(quantizer).__name__, quantizer.bits, quantizer.signed) == (kind, bits, False)
    assert {name: quantizer.config[name] for name in expected} == expected
    assert quantizer.enabled
    assert not quantizer.tabulated


@pytest.mark.parametrize("name", ["shift-log2", "tan", "log2", "log-sqrt2"])
def test_a_table_is_made_where_it_is_asked_for(name: str) -> None:
    assert build({"quantizer": name, "tabulated": True}).tabulated


@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("axis", [None, 0])
def test_uniform_codes(bits: int, symmetric: bool, signed: bool, axis: int | None) -> None:
    fields = {"bits": bits, "symmetric": symmetric, "percentiles": PERCENTILES}
    quantizer = build(fields, signed=signed, axis=axis, first_code=3)
    least = -(2 ** (bits - 1)) if signed or symmetric else 3
    assert (quantizer.code_min, quantizer.code_max) == (least, least + 2**bits - 1)
    assert quantizer.signed == (signed or symmetric), "symmetric codes lie around zero"
    assert quantizer.config["symmetric"] == symmetric
    assert quantizer.config["axis"] == axis
    assert quantizer.config["percentiles"] == PERCENTILES


def test_by_default_one_scale_and_unsigned_codes_from_zero() -> None:
    quantizer = build({"bits": 4})
    assert (quantizer.code_min, quantizer.code_max) == (0, 15)
    assert quantizer.config["axis"] is None
