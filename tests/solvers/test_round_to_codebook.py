from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qpass.quantizers import WeightCodebook
from qpass.solvers.codebook_levels import best_levels
from qpass.solvers.coordinate_descent import descend
from qpass.solvers.gptq import gptq
from qpass.solvers.round_to_codebook import refine_codebook


def problem(outputs: int = 6, inputs: int = 10, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A weight, correlated inputs, and other inputs whose products with the weight are wanted."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(inputs, inputs, generator=generator, dtype=torch.float64)
    x = torch.randn(80, inputs, generator=generator, dtype=torch.float64) @ mix
    drift = 0.1 * torch.randn(80, inputs, generator=generator, dtype=torch.float64)
    return torch.randn(outputs, inputs, generator=generator), x, x + drift


@pytest.mark.parametrize("channels", [1, 2, 0])
def test_levels_are_those_of_least_squares_on_the_outputs(channels: int) -> None:
    weight, x, y = problem()
    codebook = WeightCodebook(2, channels=channels).fit(weight)
    codes, tables = codebook.encode(weight).long(), codebook.tables(6)
    wanted = weight.double() @ (y.T @ x)
    found = best_levels(codes, x.T @ x, wanted, levels=codebook.table, scale=codebook.scale, tables=tables)
    for table in range(len(found)):
        rows = (tables == table).nonzero()[:, 0]
        one_hot = torch.nn.functional.one_hot(codes[rows], 4).double() * codebook.scale[rows, None, None]
        outputs = (y @ weight.double().T)[:, rows].T.flatten()
        expected = torch.linalg.lstsq((x @ one_hot).flatten(0, 1), outputs).solution
        torch.testing.assert_close(found[table], expected, rtol=1e-4, atol=1e-4)


def test_a_level_that_no_weight_has_keeps_its_value() -> None:
    weight, x, _ = problem()
    codes = torch.zeros(6, 10, dtype=torch.long)
    codes[:, ::2] = 2
    levels = torch.tensor([[-5.0, 0, 5, 77]]).repeat(6, 1)
    wanted = weight.double() @ (x.T @ x)
    found = best_levels(codes, x.T @ x, wanted, levels=levels, scale=torch.ones(6), tables=torch.arange(6))
    torch.testing.assert_close(found[:, [1, 3]], levels[:, [1, 3]].double())


def test_descent_lowers_the_error_until_no_single_code_can() -> None:
    weight, x, y = problem(inputs=70)  # more than one block of columns
    gram, wanted = x.T @ x, weight.double() @ (y.T @ x)
    codebook = WeightCodebook(2).fit(weight)
    levels, codes = codebook.channel_levels().double(), codebook.encode(weight).long()

    def errors(codes: Tensor) -> Tensor:
        values = levels.gather(1, codes)
        return (x @ values.T - y @ weight.double().T).square().sum(0)

    last = errors(codes)
    for _ in range(50):
        exact, before = descend(codes, levels, gram, wanted), codes
        codes = (exact[:, :, None] - levels[:, None]).abs().argmin(2)
        assert (errors(codes) <= last * (1 + 1e-9)).all()
        last = errors(codes)
        if torch.equal(codes, before):
            break
    assert torch.equal(codes, before), "it comes to an end"
    # Where nothing changes any more, each value is the best given all others.
    rounded = levels.gather(1, codes)
    torch.testing.assert_close(exact, rounded - (rounded @ gram - wanted) / gram.diagonal())
    for column in range(70):
        for level in range(4):
            other = codes.clone()
            other[:, column] = level
            assert (errors(other) >= last * (1 - 1e-9)).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_refining_lowers_the_error_of_error_feedback(channels: int) -> None:
    weight, x, y = problem(outputs=12, inputs=40)
    gram, drift = x.T @ x, (y - x).T @ x
    codebook = WeightCodebook(2, channels=channels).fit(weight, gram.diagonal())
    fed_back = gptq(weight, codebook, gram, drift)[0]

    def error(values: Tensor) -> float:
        return float((x @ values.double().T - y @ weight.double().T).square().sum())

    before, first = error(codebook(fed_back)), codebook.table.clone()
    refined, exact = refine_codebook(weight, fed_back, codebook, gram, drift)
    assert error(refined(exact)) < 0.95 * before
    assert torch.isclose(refined(exact), exact).float().mean() < 0.1, "values before their rounding, for learning"
    assert torch.equal(codebook.table, first), "the given codebook stays as it is"


def test_inputs_that_are_always_zero_are_rounded_to_nearest() -> None:
    weight, x, _ = problem()
    x[:, 4] = 0
    codebook = WeightCodebook(3).fit(weight)
    refined, exact = refine_codebook(weight, weight, codebook, x.T @ x, torch.zeros(10, 10))
    torch.testing.assert_close(refined(exact)[:, 4], refined(weight)[:, 4])
