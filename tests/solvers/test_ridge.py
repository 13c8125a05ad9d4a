"""Against ordinary least squares on the stacked system that ridge regression is."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qpass.solvers.ridge import absorb_input_error


def problem(seed: int, rows: int = 300, columns: int = 12, outputs: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Returns wanted inputs, the same rounded, and a weight."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    wanted = torch.randn(rows, columns, generator=generator, dtype=torch.float64) @ mix
    return wanted, wanted.round(), torch.randn(outputs, columns, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("ridge", [1e-6, 0.03, 1.0])
def test_it_is_the_least_squares_solution_of_the_stacked_system(ridge: float) -> None:
    wanted, x, weight = problem(0)
    gram = x.T @ x
    root = (ridge * gram.diagonal().mean()).sqrt()
    rows = torch.cat([x, root * torch.eye(12, dtype=torch.float64)])
    targets = torch.cat([wanted @ weight.T, root * weight.T])
    expected = torch.linalg.lstsq(rows, targets).solution.T
    found = absorb_input_error(weight, gram, (wanted - x).T @ x, ridges=(1.0, ridge))[1]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@settings(deadline=None)
@given(st.integers(0, 2**31))
def test_the_output_never_is_farther_than_with_the_old_weight(seed: int) -> None:
    wanted, x, weight = problem(seed, rows=40, columns=6)
    found = absorb_input_error(weight, x.T @ x, (wanted - x).T @ x)
    errors = [(x @ w.T - wanted @ weight.T).square().sum() for w in (*found, weight)]
    assert sorted(errors) == errors  # the less damped, the nearer; the old weight is the limit


def test_inputs_as_wanted_leave_the_weight_as_it_is() -> None:
    x, _, weight = problem(1)
    for found in absorb_input_error(weight, x.T @ x, torch.zeros(12, 12)):
        assert torch.equal(found, weight)


def test_a_channel_that_is_never_used_breaks_nothing() -> None:
    wanted, x, weight = problem(2)
    wanted[:, 3] = x[:, 3] = 0
    found = absorb_input_error(weight, x.T @ x, (wanted - x).T @ x)[0]
    assert found.isfinite().all()
    torch.testing.assert_close(found[:, 3], weight[:, 3])
