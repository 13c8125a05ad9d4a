"""Numbers of the dynamic focusing quantizer against the paper's equation and against finite differences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qpass.config import CODE_ZERO
from qpass.config.options import CodeZero
from qpass.quantizers import DynamicFocus, Uniform

X = torch.tensor([0.0, 0.004, 0.02, 0.06, 0.11, 0.159, 0.2, 0.7, 1.0])


def quantizer(reading: str, bits: int = 4, b1: float = 0.01, b2: float = 0.16) -> DynamicFocus:
    return DynamicFocus(bits, code_zero=reading).set_interval(b1, b2)


def test_codes_are_those_of_the_paper() -> None:
    """Eq. 15 with b1 = 0.01, b2 = 0.16, k = 4: s = 0.01."""
    expected = [0, 0, 1, 5, 10, 15, 15, 15, 15]
    assert quantizer("affine").encode(X).tolist() == expected
    assert quantizer("zero").encode(X).tolist() == expected


def test_values_of_the_three_readings() -> None:
    affine, zero, snapped = (quantizer(reading)(X).double() for reading in CODE_ZERO)
    codes = torch.tensor([0, 0, 1, 5, 10, 15, 15, 15, 15], dtype=torch.float64)
    torch.testing.assert_close(affine, 0.01 + 0.01 * codes, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(zero, torch.where(codes == 0, 0, 0.01 + 0.01 * codes), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(snapped, affine, rtol=1e-6, atol=1e-8)  # here b1 is a multiple of s


@settings(max_examples=60, deadline=None)
@given(b1=st.floats(0, 0.3), width=st.floats(0.02, 0.6), bits=st.integers(2, 6), seed=st.integers(0, 999))
def test_snapped_is_a_uniform_quantizer_of_eight_bits_clipped_to_its_codes(
    b1: float, width: float, bits: int, seed: int
) -> None:
    focus = quantizer("snapped", bits, b1, b1 + width)
    x = torch.rand(200, generator=torch.Generator().manual_seed(seed))
    wide = Uniform(8).set_parameters(focus.scale, torch.tensor(0.0))
    assert torch.equal(focus.encode(x), wide.encode(x).clamp(focus.code_min, focus.code_max))
    assert 0 <= focus.code_min <= focus.code_max <= 255
    assert focus.b1.item() == pytest.approx(focus.code_min * focus.scale.item(), abs=1e-7)
    share = b1 / (b1 + width)
    assert focus.code_min == min(round(focus.steps * share / (1 - share)), 255 - focus.steps)


def test_learning_keeps_the_codes_of_the_snapped_reading() -> None:
    """One step of n would move all values below b1 by s: a row of 197 tokens would add up to several."""
    focus = quantizer("snapped", b1=0.0165, b2=0.53)  # b1 / s is a hair below one half
    assert focus.code_min == 0
    with torch.no_grad():
        focus.b1.add_(0.01)
        focus.b2.mul_(0.9)
    focus.project()
    assert focus.code_min == 0
    assert focus.b1.item() == 0


@pytest.mark.parametrize("reading", CODE_ZERO)
def test_gradients_of_the_interval_are_the_closed_forms(reading: str) -> None:
    focus = quantizer(reading, b1=0.013, b2=0.17)
    focus.requires_grad_()
    x = torch.rand(400, generator=torch.Generator().manual_seed(0)) * 0.25
    x.requires_grad_()
    upstream = torch.randn(400, generator=torch.Generator().manual_seed(1))
    focus(x).backward(upstream)
    g, steps, b1, b2 = upstream.double(), 15, focus.b1.item(), focus.b2.item()
    s = (b2 - b1) / steps  # of the readings that are not snapped
    below, above = x < b1, x > b2
    inside = ~(below | above)
    if reading == "snapped":
        n = focus.code_min
        s = b2 / (n + steps)
        u = x.detach().double() / s
        to_s = inside * (u.round() - u) + below * n
        to_b1, to_b2 = torch.zeros_like(u), to_s / (n + steps) + above.double()
    else:
        u = (x.detach().double() - b1) / s
        live = inside & (u.round() > 0) if reading == "zero" else inside
        to_b1 = live * (u - u.round()) / steps + (below if reading == "affine" else 0)  # methods page, section 1
        to_b2 = live * (u.round() - u) / steps + above
    assert focus.b1.grad is not None
    assert focus.b2.grad is not None
    assert x.grad is not None
    torch.testing.assert_close(focus.b1.grad.double(), (g * to_b1).sum(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(focus.b2.grad.double(), (g * to_b2).sum(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(x.grad, upstream * inside)


def test_smooth_parts_agree_with_finite_differences() -> None:
    """Outside the interval x̂ is a smooth function of b1 and b2, and inside it is one while no code changes."""

    def output(b1: float, b2: float, x: Tensor) -> Tensor:
        steps = torch.floor(((x.double() - 0.013) / ((0.17 - 0.013) / 15)) + 0.5).clamp(0, 15)  # codes held as they are
        return b1 + (b2 - b1) / 15 * steps

    x = torch.tensor([0.002, 0.2, 0.013 + 6 * (0.17 - 0.013) / 15])  # below, above, and on a level, where [u] = u
    step = 1e-6
    for index in range(3):
        focus = quantizer("affine", b1=0.013, b2=0.17)
        focus.requires_grad_()
        focus(x[index]).backward()
        d1 = (output(0.013 + step, 0.17, x[index]) - output(0.013 - step, 0.17, x[index])) / (2 * step)
        d2 = (output(0.013, 0.17 + step, x[index]) - output(0.013, 0.17 - step, x[index])) / (2 * step)
        assert focus.b1.grad is not None
        assert focus.b2.grad is not None
        if index < 2:
            assert focus.b1.grad.item() == pytest.approx(d1.item(), abs=1e-5)
            assert focus.b2.grad.item() == pytest.approx(d2.item(), abs=1e-5)
        else:  # on a level the code moves with the interval and x̂ stays at x: both terms cancel
            assert focus.b1.grad.item() == pytest.approx(0, abs=1e-4)
            assert focus.b2.grad.item() == pytest.approx(0, abs=1e-4)


def test_fit_takes_the_reading_with_the_least_error_of_the_product() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(4, 64, 64, generator=generator).mul(2).softmax(-1)
    v = torch.randn(4, 64, 16, generator=generator) + 1

    def error(candidate: object) -> float:
        return ((candidate(a) - a) @ v).double().square().sum().item()  # type: ignore[operator]

    best = DynamicFocus(3).fit(a, criterion=error)
    each = {reading: error(DynamicFocus(3, code_zero=reading).fit(a, criterion=error)) for reading in CODE_ZERO}
    assert best.code_zero in CODE_ZERO
    assert error(best) == pytest.approx(min(each.values()))
    assert each["affine"] > 2 * each[best.code_zero] or best.code_zero == "affine"


def test_learned_is_the_better_of_the_readings_whose_b1_is_learned() -> None:
    x = torch.randn(4, 64, 64, generator=torch.Generator().manual_seed(0)).mul(2).softmax(-1)

    def error(reading: str) -> float:
        return (DynamicFocus(3, code_zero=reading).fit(x)(x) - x).square().sum().item()

    fitted = DynamicFocus(3, code_zero="learned").fit(x)
    assert fitted.code_zero in ("affine", "zero")
    assert (fitted(x) - x).square().sum().item() == pytest.approx(min(error("affine"), error("zero")))


def test_starts_are_the_fit_and_the_values_of_b1_in_each_reading_to_choose_from() -> None:
    focus = DynamicFocus(4, code_zero="learned").set_candidate((0.0, 0.5, CodeZero.ZERO))
    others = [(b1, 0.5, reading) for reading in ("affine", "zero") for b1 in (0.0, 0.01, 0.02)]
    assert focus.starts([0.01, 0.02]) == [(0.0, 0.5, "zero"), *others]
    assert {reading for _, _, reading in quantizer("affine").starts([0.01])} == {"affine"}


def test_the_interval_stays_inside_its_bounds() -> None:
    focus = DynamicFocus(4).set_interval(-0.3, 1.7)
    assert (focus.b1.item(), focus.b2.item()) == (0.0, 1.0)
    focus = quantizer("snapped", b1=0.9, b2=0.5)
    assert focus.b1 < focus.b2
    assert focus.code_max <= 255
