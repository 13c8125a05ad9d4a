"""Against the formula in plain Python floats."""

from __future__ import annotations

import math

import pytest
import torch

from qpass.quantizers import Tan, Uniform

MAPS = torch.randn(4, 32, 32, generator=torch.Generator().manual_seed(0)).mul(3).softmax(-1)


@pytest.mark.parametrize(("low", "high"), [(-1.45, 0.01), (-0.6, 1.1), (-0.01, 0.3)])
@pytest.mark.parametrize("bits", [3, 4, 6])
def test_equals_the_formula_in_float64(bits: int, low: float, high: float) -> None:
    scale, last = 0.7, 2**bits - 1
    quantizer = Tan(bits).set_parameters(scale, low, high)
    x = torch.rand(2000, generator=torch.Generator().manual_seed(0)) ** 3
    width = math.tan(high) - math.tan(low)
    for value, code, approximation in zip(x.tolist(), quantizer.encode(x).tolist(), quantizer(x).tolist(), strict=True):
        u = min(max(value / scale, 0), 1)
        position = last * (math.tan(low + (high - low) * u) - math.tan(low)) / width
        if abs(position - math.floor(position) - 0.5) > 1e-4:
            assert code == round(position)
            expected = scale * (math.atan(math.tan(low) + width * round(position) / last) - low) / (high - low)
            assert approximation == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_zero_is_kept_and_what_lies_beyond_the_scale_is_clipped() -> None:
    quantizer = Tan(4).set_parameters(0.5, -1.45, 0.3)
    assert quantizer(torch.tensor([0.0])).item() == 0
    assert quantizer(torch.tensor([0.5, 0.9])).tolist() == pytest.approx([0.5, 0.5], rel=1e-6)


def test_a_low_end_near_a_right_angle_puts_codes_near_zero() -> None:
    steep, flat = (Tan(4).set_parameters(1.0, low, 0.01).levels() for low in (-1.52, -0.01))
    assert steep[1] < 0.02 < flat[1]
    assert flat.diff().max() - flat.diff().min() < 1e-3, "almost uniform"


def test_fits_better_than_a_uniform_quantizer() -> None:
    error = lambda q: (q(MAPS) - MAPS).double().square().sum().item()  # noqa: E731
    assert error(Tan(3).fit(MAPS)) < 0.8 * error(Uniform(3, percentiles=(0.99, 0.995, 0.999, 0.9999, 1.0)).fit(MAPS))


def test_the_gradient_vanishes_beyond_the_scale() -> None:
    x = torch.tensor([0.1, 0.9]).requires_grad_()
    Tan(4).set_parameters(0.5, -1.1, 0.3)(x).sum().backward()
    assert x.grad is not None
    assert x.grad[0] > 0.5
    assert x.grad[1] == 0
