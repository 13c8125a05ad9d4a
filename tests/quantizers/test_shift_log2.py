"""Against the paper's formulas in plain Python floats."""

from __future__ import annotations

import math

import pytest
import torch

from qpass.quantizers import ShiftLog2
from qpass.quantizers.shift_log2 import SHIFTS

MAPS = torch.randn(4, 32, 32, generator=torch.Generator().manual_seed(0)).mul(3).softmax(-1)


@pytest.mark.parametrize("exponent_round", [False, True])
@pytest.mark.parametrize("bits", [3, 4, 6])
def test_equals_the_paper_in_float64(bits: int, exponent_round: bool) -> None:
    eta, least, greatest, last = 0.01, 1e-4, 0.8, 2**bits - 1
    quantizer = ShiftLog2(bits, exponent_round=exponent_round).set_parameters(eta, least, greatest)
    low, high = math.log2(least + eta), math.log2(greatest + eta)
    step = (high - low) / last
    x = torch.rand(2000, generator=torch.Generator().manual_seed(0)) ** 4
    for value, code, approximation in zip(x.tolist(), quantizer.encode(x).tolist(), quantizer(x).tolist(), strict=True):
        position = (math.log2(value + eta) - low) / step
        q = min(max(round(position), 0), last)
        if abs(position - math.floor(position) - 0.5) > 1e-4:
            assert code == q
            exponent = low + q * step
            assert approximation == pytest.approx(
                2 ** (round(exponent) if exponent_round else exponent) - eta, rel=1e-4, abs=1e-6
            )


def test_worked_values() -> None:
    """η = 1/8 and values from 0 to 7/8: y from -3 to 0, so that at 2 bits every code is a power of two less 1/8."""
    quantizer = ShiftLog2(2).set_parameters(0.125, 0.0, 0.875)
    x = torch.tensor([0.0, 0.125, 0.375, 0.875, 0.04, 0.06, 1.0])
    assert quantizer.encode(x).tolist() == [0, 1, 2, 3, 0, 1, 3]
    assert quantizer(x).tolist() == pytest.approx([0.0, 0.125, 0.375, 0.875, 0.0, 0.125, 0.875])


def test_the_shift_is_the_one_with_the_least_error() -> None:
    least, greatest = MAPS.min().item(), MAPS.max().item()
    error = lambda q: (q(MAPS) - MAPS).double().square().sum().item()  # noqa: E731
    errors = {eta: error(ShiftLog2(4).set_parameters(eta, least, greatest)) for eta in SHIFTS}
    fitted = ShiftLog2(4).fit(MAPS)
    assert fitted.eta.item() == pytest.approx(min(errors, key=errors.__getitem__))
    assert error(fitted) == pytest.approx(min(errors.values()), rel=1e-5)


def test_a_criterion_takes_the_place_of_the_error() -> None:
    assert ShiftLog2(4).fit(MAPS, criterion=lambda q: abs(q.eta.item() - 0.25)).eta.item() == 0.25  # type: ignore[attr-defined,operator]


def test_rounded_exponents_merge_codes_and_lose_accuracy() -> None:
    rounded, plain = (ShiftLog2(4, exponent_round=choice).fit(MAPS) for choice in (True, False))
    assert rounded.levels().unique().numel() < plain.levels().unique().numel() == 16
    assert (rounded(MAPS) - MAPS).square().sum() > (plain(MAPS) - MAPS).square().sum()


def test_rounded_exponents_are_bytes_where_a_byte_spans_them() -> None:
    quantizer = ShiftLog2(4, exponent_round=True).set_parameters(2.0**-5, 0.0, 1.0)
    levels = quantizer.integer_levels()
    assert levels is not None
    numbers, unit, offset = levels
    assert set(numbers.tolist()) == {1, 2, 4, 8, 16, 32}
    assert torch.equal(numbers * unit + offset, quantizer.levels())
    assert ShiftLog2(4, exponent_round=True).set_parameters(2.0**-9, 0.0, 1.0).integer_levels() is None
    assert ShiftLog2(4).set_parameters(2.0**-5, 0.0, 1.0).integer_levels() is None
