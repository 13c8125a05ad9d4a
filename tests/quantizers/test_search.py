from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qpass.quantizers.search import WeightedRows


@settings(max_examples=80, deadline=None)
@given(
    values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=30),
    p=st.floats(0, 1),
    counts=st.lists(st.integers(0, 5), min_size=30, max_size=30),
)
def test_weighted_quantile_equals_numpy_on_repeated_samples(values: list[float], p: float, counts: list[int]) -> None:
    counts = counts[: len(values)]
    counts[0] += 1
    repeated = np.repeat(np.array(values, np.float64), counts)
    rows = WeightedRows(torch.tensor([values], dtype=torch.float64), torch.tensor([counts]))
    np.testing.assert_allclose(rows.quantile(p).item(), np.quantile(repeated, p), rtol=1e-9, atol=1e-9)


def test_squared_error_counts_weights() -> None:
    rows = WeightedRows(torch.tensor([[3.0, 1.0]]), torch.tensor([[2, 5]]))
    assert rows.squared_error(torch.zeros(1, 2)).item() == 2 * 9 + 5 * 1
