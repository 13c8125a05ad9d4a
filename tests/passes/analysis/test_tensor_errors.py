"""Which samples errors are measured on; the errors themselves are tested where bits are allocated."""

from __future__ import annotations

import pytest
import torch

from qpass.data import ModelInputs
from qpass.data.rows import batch_size
from qpass.passes.analysis.tensor_errors import some_batches


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_batches_of_any_size(size: int) -> None:
    batches = [ModelInputs((torch.randn(size, 3),), {}) for _ in range(3)]
    assert sum(batch_size(part) for part in some_batches(batches, 64, 4)) > 2 * size
    assert sum(batch_size(part) for part in some_batches(batches, 6, 4)) in range(min(6, 3 * size) // 2, 9)
    assert all(batch_size(part) == size for part in some_batches(batches, 6, None))
