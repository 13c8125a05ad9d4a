from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from qpass.quantizers.k_means import k_means


def rows(count: int, values: int, seed: int) -> tuple[Tensor, Tensor]:
    """Ascending values and weights, some of them 0."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, values, generator=generator, dtype=torch.float64).sort(1).values
    weight = torch.rand(count, values, generator=generator, dtype=torch.float64)
    return x, weight * (torch.rand(count, values, generator=generator) > 0.2)


def error(x: Tensor, weight: Tensor, levels: Tensor) -> float:
    """Of one row, each value at its nearest level."""
    return float((weight * (x[:, None] - levels).square().amin(1)).sum())


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_no_partition_into_intervals_has_a_smaller_error(levels: int) -> None:
    x, weight = rows(6, 10, seed=levels)
    found = k_means(x, weight, levels)
    assert found.shape == (6, levels)
    assert (found.diff(dim=1) >= 0).all()
    for values, counts, chosen in zip(x, weight, found, strict=True):
        least = torch.inf
        for cuts in itertools.combinations(range(1, 10), levels - 1):
            ends = [0, *cuts, 10]
            parts = [(values[a:b], counts[a:b]) for a, b in itertools.pairwise(ends)]
            means = [(v * c).sum() / c.sum() for v, c in parts if c.sum() > 0]
            least = min(least, error(values, counts, torch.stack(means)))
        assert error(values, counts, chosen) == pytest.approx(least, rel=1e-9)


def test_no_choice_of_whole_numbers_has_a_smaller_error() -> None:
    x, weight = rows(4, 12, seed=5)
    x = 4 + 3 * x  # some below 0 and above 8
    found = k_means(x, weight, 3, bounds=(0, 8))
    assert torch.equal(found, found.round().clamp(0, 8))
    for values, counts, chosen in zip(x, weight, found, strict=True):
        choices = itertools.combinations(range(9), 3)
        least = min(error(values, counts, torch.tensor(choice, dtype=torch.float64)) for choice in choices)
        assert error(values, counts, chosen) == pytest.approx(least, rel=1e-9)


def test_with_as_many_levels_as_values_nothing_is_lost_and_spare_levels_repeat() -> None:
    x = torch.tensor([[1.0, 2.0, 5.0, 9.0], [3.0, 3.0, 3.0, 3.0]])
    found = k_means(x, torch.ones_like(x), 4)
    assert found[0].tolist() == [1.0, 2.0, 5.0, 9.0]
    assert found[1].tolist() == [3.0] * 4
    assert k_means(x[:1], torch.tensor([[1.0, 0, 0, 1]]), 3)[0].unique().tolist() == [1.0, 9.0]
