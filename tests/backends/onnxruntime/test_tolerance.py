from __future__ import annotations

import math

import pytest
import torch

from qpass.backends.onnxruntime.tolerance import differences, envelope, kinds


def test_the_envelope_is_the_least_of_a_values_groups() -> None:
    values = torch.tensor([[1.0, 100.0, 3.0], [2.0, 50.0, 0.5]])
    # Columns have at most 2, 100 and 3; rows have 100 and 50.
    assert torch.equal(envelope(values).expand(2, 3), torch.tensor([[2.0, 100.0, 3.0], [2.0, 50.0, 3.0]]))


def test_groups_that_are_too_small_do_not_count() -> None:
    values = torch.tensor([[1.0, 100.0, 3.0], [2.0, 50.0, 0.5]])
    assert torch.equal(envelope(values, 3).expand(2, 3), torch.tensor([[100.0] * 3, [50.0] * 3]))
    assert envelope(values, 7).expand(2, 3).unique().tolist() == [100.0]


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4)])
def test_odd_shapes(shape: tuple[int, ...]) -> None:
    values = torch.rand(shape)
    assert envelope(values).expand(shape).shape == shape
    assert envelope(values, 16).expand(shape).shape == shape


def test_differences_are_zero_where_both_are_no_numbers_and_infinite_where_one_is() -> None:
    inf, nan = math.inf, math.nan
    a = torch.tensor([1.0, nan, inf, -inf, inf, 2.0, nan])
    b = torch.tensor([1.5, nan, inf, -inf, -inf, inf, 0.0])
    assert differences(a, b).tolist() == [0.5, 0, 0, 0, inf, inf, inf]
    assert kinds(torch.tensor([3, 4])).tolist() == [0, 0]
    assert differences(torch.tensor([True, False]), torch.tensor([True, True])).tolist() == [0, 1]
