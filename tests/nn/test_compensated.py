from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qpass.nn import CompensatedLinear, QuantizedLinear
from qpass.quantizers import Uniform


def plain(outputs: int = 12, inputs: int = 8, bits: int = 4) -> QuantizedLinear:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=generator)
    return QuantizedLinear(weight, torch.randn(outputs, generator=generator), Uniform(bits, signed=True, axis=0).fit(weight))


def compensated(ranks: tuple[int, ...], seed: int = 1) -> CompensatedLinear:
    layer = CompensatedLinear(plain(), ranks, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        layer.B.normal_(0, 0.2, generator=torch.Generator().manual_seed(2))
        layer.alpha.normal_(0, 1, generator=torch.Generator().manual_seed(3))
    return layer


def x() -> Tensor:
    return torch.randn(5, 8, generator=torch.Generator().manual_seed(4))


def test_it_starts_as_the_layer_it_comes_from() -> None:
    layer = CompensatedLinear(plain(), (2, 4), torch.Generator().manual_seed(1))
    assert torch.equal(layer(x()), plain()(x()))
    assert layer.A.abs().max() > 0


def test_candidates_are_capped_and_those_that_coincide_are_one() -> None:
    assert CompensatedLinear(plain(), (2, 10, 20, 150)).ranks == (2, 8)


def test_the_weight_is_the_sum_over_candidates() -> None:
    """Eq. 11: W0 + Σ_j m_j ᾱ_j B_j A_j, candidate by candidate in float64."""
    layer = compensated((1, 3))
    layer.mask = torch.tensor([0.0, 1.0])
    share = layer.alpha.double().exp() / layer.alpha.double().exp().sum()
    a, b = layer.A.double(), layer.B.double()
    assert layer.weight is not None
    expected = layer.weight.double() + 0 * share[0] * b[:, :1] @ a[:1] + 1 * share[1] * b[:, 1:] @ a[1:]
    torch.testing.assert_close(layer.effective_weight().double(), expected, rtol=1e-5, atol=1e-6)


def test_what_is_left_out_of_a_step_learns_nothing_from_it() -> None:
    layer = compensated((1, 3))
    layer.requires_grad_()
    layer.mask = torch.tensor([0.0, 1.0])
    layer(x()).square().sum().backward()
    assert layer.A.grad is not None
    assert layer.A.grad[:1].abs().max() == 0
    assert layer.A.grad[1:].abs().max() > 0


def test_masks_are_drawn_with_the_given_probability() -> None:
    layer, generator = compensated((1, 2, 3)), torch.Generator().manual_seed(0)
    drawn = []
    for _ in range(400):
        layer.draw_mask(0.25, generator)
        drawn.append(layer.mask)
    assert torch.stack(drawn).mean() == pytest.approx(0.75, abs=0.04)


def test_choosing_keeps_the_likeliest_rank_and_what_it_added() -> None:
    layer = compensated((1, 3, 5))
    with torch.no_grad():
        layer.alpha.copy_(torch.tensor([0.1, 2.0, 0.3]))
    assert layer.weight is not None
    share, a, b = layer.architecture()[1], layer.A[1:4], layer.B[:, 1:4]
    expected = layer.weight + share * (b @ a)
    assert layer.choose() == 3
    assert layer.ranks == (3,)
    torch.testing.assert_close(layer.effective_weight(), expected)


def test_merged_is_one_integer_weight_that_gives_the_same() -> None:
    layer = compensated((3,))
    merged = layer.merged()
    assert type(merged) is QuantizedLinear
    assert torch.equal(merged(x()), layer(x()))
    merged.freeze()
    assert torch.equal(merged(x()), layer(x()))
    assert not torch.equal(merged(x()), plain()(x()))


def test_the_gradient_is_that_of_the_product_through_the_rounding() -> None:
    """Straight-through: dL/dB = (dL/dW) Aᵀ and dL/dA = Bᵀ (dL/dW), dL/dW of the linear layer at the quantized weight."""
    layer = compensated((3,))
    layer.requires_grad_()
    output = layer(x())
    output.sum().backward()
    to_weight = torch.ones_like(output).T @ x()
    assert layer.quantizer is not None
    assert layer.A.grad is not None
    assert layer.B.grad is not None
    codes = (layer.effective_weight() / layer.quantizer.scale[:, None]).round() + layer.quantizer.zero_point[:, None]
    kept = (codes >= layer.quantizer.code_min) & (codes <= layer.quantizer.code_max)
    assert not kept.all()
    torch.testing.assert_close(layer.B.grad, (to_weight * kept) @ layer.A.T, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.A.grad, layer.B.T @ (to_weight * kept), rtol=1e-4, atol=1e-4)
