"""Row-wise quantiles and errors of weighted samples, shared by all percentile searches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor

from qpass.quantizers.base import Criterion, Quantizer

Candidate = TypeVar("Candidate")


class WeightedRows:
    """Rows of samples with counts, sorted for quantiles.

    Args:
        x: (rows, samples), finite.
        weight: Same shape, non-negative, at least one positive in each row; None counts each sample
            once.
    """

    def __init__(self, x: Tensor, weight: Tensor | None = None) -> None:
        x = x.double()
        weight = torch.ones_like(x) if weight is None else weight.to(torch.float64)
        self.x, order = x.sort(dim=-1)
        self.weight = weight.expand_as(x).gather(-1, order)
        self._cumulative = self.weight.cumsum(-1)

    @classmethod
    def of_tensor(cls, x: Tensor, weight: Tensor | None = None) -> WeightedRows:
        """Returns all values of a tensor as one row; ``weight`` has the same shape."""
        return cls(x.detach().reshape(1, -1), None if weight is None else weight.reshape(1, -1))

    def quantile(self, p: float) -> Tensor:
        """Returns each row's p-quantile, interpolated linearly like ``torch.quantile``: (rows,)."""
        position = p * (self._cumulative[:, -1:] - 1)
        low = self._order_statistic(position.floor())
        high = self._order_statistic(position.ceil())
        return (low + (high - low) * (position - position.floor())).squeeze(-1)

    def _order_statistic(self, index: Tensor) -> Tensor:
        # the first sample whose cumulative count exceeds the index
        at = torch.searchsorted(self._cumulative, index, right=True).clamp(max=self.x.shape[-1] - 1)
        return self.x.gather(-1, at)

    def squared_error(self, approximation: Tensor) -> Tensor:
        """Returns each row's weighted sum of squared differences to ``approximation``: (rows,)."""
        return ((approximation.double() - self.x).square() * self.weight).sum(-1)


def least_error(
    candidates: Iterable[Candidate],
    set_parameters: Callable[[Candidate], object],
    quantizer: Quantizer,
    rows: WeightedRows,
    criterion: Criterion | None,
) -> Candidate:
    """Returns the candidate with the lowest error; ties go to the first.

    Args:
        candidates: Parameters to try, at least one.
        set_parameters: Applies a candidate to the quantizer.
        quantizer: The quantizer.
        rows: One row of samples.
        criterion: The error; None uses the squared error on the samples.
    """
    x, best, least = rows.x.float(), None, math.inf
    for candidate in candidates:
        set_parameters(candidate)
        error = criterion(quantizer) if criterion is not None else rows.squared_error(quantizer(x)).item()
        if best is None or error < least:
            best, least = candidate, error
    assert best is not None, "no candidate"
    return best
