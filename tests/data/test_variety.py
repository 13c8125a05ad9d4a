"""Calibration data of a single value or sample is reported, and what real data holds is not."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qpass.data import checked_batches


class Takes(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x


X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
ZEROS, ONES = torch.zeros(4, 3), torch.ones(4, 3)


def said(loader: list[Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        list(checked_batches(loader, Takes()))
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ([ZEROS], "x is 0 everywhere"),
        ([ZEROS, ZEROS], "x is 0 everywhere"),
        ([2 * ONES[:1]], "x is 2 everywhere"),
        ([{"x": ZEROS, "mask": ONES}], "x is 0 everywhere, mask is 1 everywhere"),
        ([{"x": ZEROS, "mask": ONES.bool()}], "x is 0 everywhere"),
        ([X[:1], X[:1]], "all 2 samples are the same"),
        ([X[:1].repeat(3, 1)], "all 3 samples are the same"),
        ([torch.tensor([[1, 2], [1, 2]])], "all 2 samples are the same"),
    ],
)
def test_data_that_is_not_real_is_reported(loader: list[Any], message: str) -> None:
    (found,) = said(loader)
    assert found.startswith(f"calib_loader: {message}: ")
    assert "give samples" in found


@pytest.mark.parametrize(
    "loader",
    [
        [X],
        [X[:1]],
        [ZEROS, X],
        [ZEROS, ONES],
        [X[:1], X[1:2]],
        [{"x": X, "mask": ONES}],
        [{"x": X, "mask": ZEROS}],
        [{"x": X[:1].repeat(2, 1), "mask": X[:2]}],
    ],
)
def test_other_data_is_not(loader: list[Any]) -> None:
    assert said(loader) == []
