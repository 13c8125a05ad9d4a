"""What every quantizer is built from: rounding with a straight-through gradient, and ranges of codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qpass.quantizers import Uniform
from qpass.quantizers.base import round_clamp_ste, ste_mask, with_slope

X = torch.tensor([-3.0, -2.5, -2.4, -0.5, 0.5, 1.5, 2.4, 2.6, 9.0])


def test_it_rounds_half_to_even_and_clamps() -> None:
    expected = np.clip(np.round(X.numpy()), -2, 2)
    assert np.array_equal(round_clamp_ste(X, -2, 2).numpy(), expected)
    assert np.array_equal(round_clamp_ste(X.clone().requires_grad_(), -2, 2).detach().numpy(), expected)


@pytest.mark.parametrize("as_tensors", [False, True], ids=["numbers", "a bound for each value"])
def test_the_gradient_is_one_where_the_rounded_value_was_not_clamped(as_tensors: bool) -> None:
    x = X.clone().requires_grad_()
    bounds = (torch.full_like(X, -2), torch.full_like(X, 2)) if as_tensors else (-2, 2)
    (round_clamp_ste(x, *bounds) * torch.arange(1.0, 10)).sum().backward()
    inside = np.abs(np.round(X.numpy())) <= 2  # 2.4 is rounded to 2, and 2.6 to 3
    assert x.grad is not None
    assert np.array_equal(x.grad.numpy(), inside * np.arange(1, 10))


def test_the_mask_is_the_same_for_numbers_and_for_tensors() -> None:
    rounded, value = torch.arange(-5.0, 6), torch.linspace(1, 2, 11)
    masked = ste_mask(value, rounded, -2, 3)
    assert torch.equal(masked, ste_mask(value, rounded, torch.tensor(-2.0), torch.tensor(3.0)))
    assert (masked != 0).nonzero().flatten().tolist() == [3, 4, 5, 6, 7, 8], "codes from -2 to 3"


def test_a_slope_that_is_given_is_the_gradient() -> None:
    x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = with_slope(x, lambda x: (x.round(), 10 * x))
    (y * torch.tensor([1.0, 1.0, 2.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [10, 20, 60]


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("signed", [False, True])
def test_codes_fill_their_bits(bits: int, signed: bool) -> None:
    quantizer = Uniform(bits, signed=signed).set_parameters(torch.tensor(0.5), torch.tensor(0.0))
    assert quantizer.code_max - quantizer.code_min == 2**bits - 1
    assert quantizer.code_min == (-(2 ** (bits - 1)) if signed else 0)
    levels = quantizer.levels()
    assert torch.equal(levels, 0.5 * torch.arange(quantizer.code_min, quantizer.code_max + 1))
    assert quantizer.encode(levels).dtype == quantizer.code_dtype == (torch.int8 if signed else torch.uint8)
    assert torch.equal(quantizer(levels), levels)
