"""Layers with a quantized weight, against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from qpass.nn import QuantizedLinear, ResidualFactor
from qpass.quantizers import Uniform


def seeded(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def linear(bias: bool = True) -> QuantizedLinear:
    weight = seeded(5, 7)
    return QuantizedLinear(weight, seeded(5) if bias else None, Uniform(4, signed=True, axis=0).fit(weight))


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_multiplies_by_its_codes(bias: bool) -> None:
    layer, x = linear(bias), seeded(3, 2, 7)
    before = layer(x)
    assert layer.freeze() is True
    assert layer.freeze() is False
    assert layer.weight is None
    assert torch.equal(layer(x), before)
    assert layer.codes is not None
    assert layer.quantizer is not None
    scale = layer.quantizer.scale.double().reshape(-1, 1).numpy()
    zero_point = layer.quantizer.zero_point.double().reshape(-1, 1).numpy()
    weight = scale * (layer.codes.numpy().astype(np.float64) - zero_point)
    expected = x.double().numpy() @ weight.T + (0 if layer.bias is None else layer.bias.detach().double().numpy())
    np.testing.assert_allclose(before.detach().numpy(), expected, rtol=1e-5, atol=1e-5)
    assert tuple(layer.output_shape(x.shape)) == before.shape


@pytest.mark.parametrize("bias", [True, False])
def test_a_change_of_the_input_is_absorbed(bias: bool) -> None:
    layer, x = linear(bias), seeded(6, 7)
    layer.quantizer = None
    ratio, shift = seeded(7).double().abs() + 0.5, seeded(7).double()
    before = layer(x)
    layer.rescale_input(ratio, shift)
    torch.testing.assert_close(layer(((x + shift) / ratio).float()), before, rtol=1e-5, atol=1e-5)


def test_the_quantizer_fits_the_weight_that_absorbed_a_change() -> None:
    layer = linear()
    layer.rescale_input(torch.linspace(1, 9, 7).double(), torch.zeros(7).double())
    assert layer.weight is not None
    assert layer.quantizer is not None
    assert torch.equal(layer.quantizer.scale, Uniform(4, signed=True, axis=0).fit(layer.weight).scale)


def test_a_residual_factor_gives_nothing_while_its_quantizer_is_off() -> None:
    weight, x = seeded(5, 7), seeded(2, 7)
    factor = ResidualFactor(weight, None, Uniform(4, signed=True, axis=0).fit(weight))
    assert factor(x).abs().min() > 0
    assert factor.quantizer is not None
    factor.quantizer.enabled = False
    assert torch.equal(factor(x), torch.zeros(2, 5))
