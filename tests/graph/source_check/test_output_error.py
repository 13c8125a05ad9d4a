"""The distance between outputs, against numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qpass.graph.source_check.output_error import has_values, output_error, same_shapes, tensor_error

INF, NAN = math.inf, math.nan


def test_it_is_the_largest_difference_over_the_root_mean_square() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((4, 5)), generator.standard_normal((4, 5))
    expected = np.abs(a - b).max() / np.sqrt((b**2).mean())
    assert tensor_error(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected, rel=1e-12)


def test_channels_count_by_their_own_size() -> None:
    """Scores beside boxes of a thousand times their size."""
    expected = torch.randn(20, 32, generator=torch.Generator().manual_seed(0))
    expected[:, 0] *= 1000
    found = expected.clone()
    found[:, 0] *= 1 + 1e-6  # what is large and equal to the bit is taken for a mask's fill value
    found[3, 7] += 0.5
    assert tensor_error(found, expected) < 0.01
    size = expected[:, 7].square().mean().sqrt().item()
    assert tensor_error(found, expected, channels=True) == pytest.approx(0.5 / size, rel=1e-5)


def test_a_channel_of_few_values_or_near_zero_has_no_size_of_its_own() -> None:
    expected = torch.ones(8, 4)
    expected[:, 2] = 0
    found = expected.clone()
    found[0, 2] = 1e-6
    size = math.sqrt(0.75)
    assert tensor_error(found, expected, channels=True) == pytest.approx(1e-6 / size, rel=1e-3), "eight values are few"
    expected, found = expected.repeat(4, 1), found.repeat(4, 1)
    assert tensor_error(found, expected, channels=True) == pytest.approx(1e-6 / (1e-3 * size), rel=1e-3)


@pytest.mark.parametrize(
    ("found", "expected", "error"),
    [
        (torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 0, 4]), 0.25),
        (torch.tensor([True, False]), torch.tensor([True, True]), 0.5),
        (torch.tensor([3 + 4j]), torch.tensor([3 + 3j]), 1 / 3),
        (torch.zeros(3), torch.zeros(2), INF),
        (torch.zeros(1, 4, dtype=torch.int64), torch.zeros(4, 1, dtype=torch.int64), INF),
        (torch.zeros(0), torch.zeros(0), 0.0),
        (torch.tensor([INF, 1.0]), torch.tensor([INF, 1.0]), 0.0),
        (torch.tensor([INF, 1.0]), torch.tensor([-INF, 1.0]), INF),
        (torch.tensor([NAN, 1.0]), torch.tensor([1.0, 1.0]), INF),
        (torch.tensor([NAN, 1.5]), torch.tensor([NAN, 1.0]), 0.5),
        (torch.tensor([NAN]), torch.tensor([NAN]), 0.0),
        (torch.tensor([0.5]), torch.tensor([0.0]), 0.5),
    ],
)
def test_values_of_every_kind(found: Tensor, expected: Tensor, error: float) -> None:
    assert tensor_error(found, expected) == pytest.approx(error)


@pytest.mark.parametrize(
    ("found", "expected", "error", "same"),
    [
        ({"a": torch.ones(2), "b": [2.0]}, {"a": torch.ones(2), "b": [1.0]}, 1.0, True),
        ([torch.ones(2)], [torch.ones(2), torch.ones(2)], INF, False),
        ([torch.ones(2), "text"], [torch.ones(2), "other"], 0.0, True),
        ([torch.ones(2)], [torch.ones(1)], INF, False),
        ([], [], 0.0, True),
    ],
)
def test_nested_outputs(found: Any, expected: Any, error: float, same: bool) -> None:
    assert output_error(found, expected) == error
    assert same_shapes(found, expected) == same


def test_an_output_has_values_if_some_call_has_a_finite_one() -> None:
    bad, good = torch.full((2,), NAN), torch.tensor([NAN, 1.0])
    assert has_values([[bad, good], [good, good]])
    assert not has_values([[bad, good], [bad, good]])
    assert has_values([[torch.tensor([1]), torch.zeros(0)]]), "integers, and what is empty"
