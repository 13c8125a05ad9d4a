"""Against least squares on random data: exhaustive search where it can be had, and the orders that must hold."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from qpass.quantizers import Quantizer, Uniform
from qpass.solvers.gptq import gptq


def correlated(rows: int, columns: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator) / columns**0.5
    common = torch.randn(rows, 1, generator=generator)
    return (torch.randn(rows, columns, generator=generator) @ mix + common).double()


def round_with_feedback(
    weight: Tensor, quantizer: Quantizer, gram: Tensor, drift: Tensor | None = None, **options: float
) -> Tensor:
    return quantizer(gptq(weight, quantizer, gram, drift, **options)[0])


def error(x: Tensor, rounded: Tensor, wanted: Tensor) -> float:
    return (x @ rounded.double().T - wanted).square().sum().item()


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_the_output_is_nearer_than_with_rounding_to_nearest(bits: int, seed: int) -> None:
    x, weight = correlated(500, 80, seed), torch.randn(24, 80, generator=torch.Generator().manual_seed(seed))
    quantizer = Uniform(bits, axis=0, signed=True).fit(weight)
    rounded = round_with_feedback(weight, quantizer, x.T @ x)
    wanted = x @ weight.double().T
    assert error(x, rounded, wanted) < 0.6 * error(x, quantizer(weight), wanted)


def test_it_comes_near_the_best_of_all_roundings() -> None:
    """Four columns at two bits: 256 roundings of a row can be tried."""
    x = correlated(200, 4, 1)
    weight = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    quantizer = Uniform(2, axis=0, signed=True, percentiles=(1.0,)).fit(weight)
    rounded, wanted = round_with_feedback(weight, quantizer, x.T @ x, damping=1e-6), x @ weight.double().T
    levels = quantizer.levels()  # (codes, rows)
    best = nearest = found = 0.0
    for row in range(8):
        every = torch.tensor(list(itertools.product(*[levels[:, row].tolist()] * 4)))
        errors = (x @ every.double().T - wanted[:, row : row + 1]).square().sum(0)
        best += errors.min().item()
        nearest += error(x, quantizer(weight)[row : row + 1], wanted[:, row : row + 1])
        found += error(x, rounded[row : row + 1], wanted[:, row : row + 1])
    assert best <= found < best + 0.5 * (nearest - best)


def test_a_diagonal_gram_matrix_gives_rounding_to_nearest() -> None:
    weight = torch.randn(6, 12, generator=torch.Generator().manual_seed(0))
    quantizer = Uniform(3, axis=0, signed=True).fit(weight)
    gram = torch.diag(torch.rand(12, generator=torch.Generator().manual_seed(1)).double() + 0.1)
    assert torch.equal(round_with_feedback(weight, quantizer, gram), quantizer(weight))


def test_columns_without_input_are_rounded_to_nearest() -> None:
    x, weight = correlated(300, 10, 2), torch.randn(5, 10, generator=torch.Generator().manual_seed(0))
    x[:, [2, 7]] = 0
    quantizer = Uniform(3, axis=0, signed=True).fit(weight)
    rounded = round_with_feedback(weight, quantizer, x.T @ x)
    assert rounded.isfinite().all()
    assert torch.equal(rounded[:, [2, 7]], quantizer(weight)[:, [2, 7]])


def test_the_order_of_the_columns_does_not_show() -> None:
    x, weight = correlated(300, 70, 3), torch.randn(9, 70, generator=torch.Generator().manual_seed(0))
    quantizer = Uniform(3, axis=0, signed=True).fit(weight)
    shuffled = torch.randperm(70, generator=torch.Generator().manual_seed(1))
    straight = round_with_feedback(weight, quantizer, x.T @ x)
    other = round_with_feedback(weight[:, shuffled], quantizer, x[:, shuffled].T @ x[:, shuffled])
    assert (straight[:, shuffled] == other).float().mean() > 0.99


def test_with_the_drift_the_output_comes_nearer_to_that_of_the_float_inputs() -> None:
    wanted_input, weight = correlated(800, 70, 4), torch.randn(32, 70, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(800, 70, generator=torch.Generator().manual_seed(1))
    x = 0.93 * wanted_input + 0.15 * noise.double()
    quantizer, wanted = Uniform(4, axis=0, signed=True).fit(weight), wanted_input @ weight.double().T
    gram, drift = x.T @ x, (wanted_input - x).T @ x
    without, half, whole = (
        error(x, round_with_feedback(weight, quantizer, gram, d), wanted) for d in (None, 0.5 * drift, drift)
    )
    assert whole < half < without


def test_shares_are_rounded_as_if_alone() -> None:
    x, weight = correlated(300, 70, 3), torch.randn(9, 70, generator=torch.Generator().manual_seed(0))
    quantizer = Uniform(3, axis=0, signed=True).fit(weight)
    gram, drift = x.T @ x, 0.2 * correlated(300, 70, 4).T @ x
    together = gptq(weight, quantizer, gram, drift, shares=(0.0, 0.5, 1.0))
    alone = [gptq(weight, quantizer, gram, share * drift)[0] for share in (0.0, 0.5, 1.0)]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together[0], gptq(weight, quantizer, gram)[0], rtol=1e-5, atol=1e-5)


def round_by_least_squares(weight: Tensor, quantizer: Quantizer, x: Tensor, drift: Tensor, damping: float) -> Tensor:
    """What GPTAQ computes, from its definition: after each column, those still to come solve their own least squares problem.

    With the damping as more rows of input, min over the columns behind i of ‖X Wᵀ' - (X + ΔX) Wᵀ‖², where ΔX counts for the
    columns up to i only: what the later columns of ΔX do is made up for when it is their turn.
    """
    columns = weight.shape[1]
    order = x.square().sum(0).argsort(descending=True, stable=True)
    x, drift, remaining = x[:, order], drift[:, order], weight.double()[:, order].clone()
    root = (damping * x.square().sum(0).mean()).sqrt()
    x = torch.cat([x, root * torch.eye(columns, dtype=torch.float64)])
    drift = torch.cat([drift, torch.zeros(columns, columns, dtype=torch.float64)])
    rounded = torch.empty_like(remaining)
    for i in range(columns):
        column = remaining[:, i].clone()
        rounded[:, i] = quantizer(column.float()[:, None])[:, 0].double()
        if i + 1 < columns:
            missing = x[:, i : i + 1] * (column - rounded[:, i]) + drift[:, i : i + 1] * column
            remaining[:, i + 1 :] += torch.linalg.lstsq(x[:, i + 1 :], missing).solution.T
    return rounded[:, order.argsort()]


@pytest.mark.parametrize("columns", [6, 70], ids=["one block", "two blocks"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_every_column_solves_its_own_least_squares_problem(columns: int, share: float) -> None:
    x, weight = correlated(400, columns, 5), torch.randn(7, columns, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(400, columns, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    drift, quantizer = 0.1 * x + 0.3 * noise, Uniform(4, axis=0, signed=True).fit(weight)
    found = gptq(weight, quantizer, x.T @ x, drift.T @ x, shares=(share,), damping=0.01)[0]
    expected = round_by_least_squares(weight, quantizer, x, share * drift, 0.01)
    assert (quantizer(found).double() - expected).abs().max() < 1e-5
