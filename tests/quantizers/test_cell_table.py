from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qpass.quantizers.base import round_clamp_ste
from qpass.quantizers.cell_table import quantize_by_cells


def by_search(x: Tensor, levels: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Searches the nearest level of each value, by autograd alone: what the table must compute."""
    cells = round_clamp_ste(x / scale, -zero_point, 255 - zero_point) + zero_point
    whole = levels.detach().round()
    index = torch.bucketize(cells.detach(), (whole[1:] + whole[:-1]) / 2)
    taken = cells + (whole[index] - cells).detach() + (levels[index] - levels[index].detach())
    return (taken - zero_point) * scale


def index_of_cells(levels: Tensor) -> Tensor:
    """The nearest level of each of the 256 cells, the lower one of two, by comparing all distances."""
    return (torch.arange(256)[:, None] - levels.detach().round()).abs().argmin(1)


def case(channels: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Values of which some lie beyond the grid, levels between whole numbers, scales and zero points."""
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(3, 40, 50, generator=generator)
    levels = torch.tensor([2.3, 40.0, 99.6, 118.2, 131.0, 140.4, 200.0, 251.9])
    if channels:
        return (
            x,
            levels,
            torch.rand(50, generator=generator) / 50 + 0.01,
            torch.randint(90, 160, (50,), generator=generator).float(),
        )
    return x, levels, torch.tensor(0.02), torch.tensor(120.0)


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_values_and_gradients_are_those_of_the_search(channels: bool, transposed: bool) -> None:
    results = []
    for by_table in (False, True):
        x, levels, scale, zero_point = case(channels)
        for leaf in (x, levels, scale):
            leaf.requires_grad_()
        # A view with other strides, as attention has them.
        seen = x.transpose(0, 1) if transposed else x
        if by_table:
            found = quantize_by_cells(seen, levels, index_of_cells(levels), scale=scale, zero_point=zero_point)
        else:
            found = by_search(seen, levels, scale, zero_point)
        found.backward(torch.randn(found.shape, generator=torch.Generator().manual_seed(1)))
        results.append((found.detach(), x.grad, levels.grad, scale.grad))
    (slow, *slow_grads), (fast, *fast_grads) = results
    assert torch.equal(fast, slow)
    for quick, exact in zip(fast_grads, slow_grads, strict=True):
        assert quick is not None
        assert exact is not None
        assert exact.count_nonzero() > 0
        torch.testing.assert_close(quick, exact, rtol=1e-4, atol=1e-5 * float(exact.abs().max()))
    assert (fast_grads[0] == 0).any(), "values beyond the grid"


def test_what_is_not_learned_has_no_gradient() -> None:
    x, levels, scale, zero_point = case(channels=False)
    quantize_by_cells(x.requires_grad_(), levels, index_of_cells(levels), scale=scale, zero_point=zero_point).sum().backward()
    assert x.grad is not None
    assert levels.grad is None
    assert scale.grad is None


def test_bfloat16_has_the_values_and_gradients_of_its_float32_codes() -> None:
    """Learning multiplies in bfloat16, where all whole numbers up to 256 are exact."""
    x, levels, _, zero_point = case(channels=False)
    x, levels, scale = x.bfloat16(), levels.requires_grad_(), torch.tensor(0.015625)  # a power of 2 divides exactly
    found = quantize_by_cells(x, levels, index_of_cells(levels), scale=scale, zero_point=zero_point)
    exact = by_search(x.float(), levels, scale, zero_point)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.bfloat16())
    (of_table,) = torch.autograd.grad(found.float().sum(), levels)
    (of_search,) = torch.autograd.grad(exact.sum(), levels)
    torch.testing.assert_close(of_table, of_search)


def test_an_undefined_value_takes_a_level() -> None:
    _, levels, scale, zero_point = case(channels=False)
    x = torch.tensor([float("nan"), float("inf"), -float("inf")]).repeat(20)
    found = quantize_by_cells(x, levels, index_of_cells(levels), scale=scale, zero_point=zero_point)
    assert found[:3].tolist() == [*((levels.round()[[0, 7, 0]] - zero_point) * scale).tolist()]
