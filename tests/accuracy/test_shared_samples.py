"""A calibration sample is recognized wherever it is in a batch, and nothing else is."""

from __future__ import annotations

import pytest
import torch

from qpass.accuracy.shared_samples import SharedSamples
from qpass.data import ModelInputs
from qpass.errors import DataError


def test_a_sample_of_both_is_refused_whatever_its_batch() -> None:
    x = torch.randn(12, 3, 4)
    known = SharedSamples([ModelInputs((part,), {}) for part in x[:6].split(4)])
    predict = known.watching(lambda batch: batch.sum())
    assert predict(x[6:]) == x[6:].sum()
    with pytest.raises(DataError, match=r"evaluates a calibration sample \(row 2 of a batch\)"):
        predict(torch.stack([x[7], x[8], x[5]]))


def test_samples_are_noted_while_they_are_read() -> None:
    x = torch.randn(6, 3, 4)
    known = SharedSamples(())
    assert torch.equal(torch.cat(list(known.noting(x[:4].split(3)))), x[:4])
    predict = known.watching(lambda batch: batch.sum())
    predict(x[4:])
    with pytest.raises(DataError, match="row 1"):
        predict(x[[5, 3]])


def test_samples_that_share_some_of_their_inputs_are_others() -> None:
    ids, mask = torch.tensor([[1, 2], [3, 4]]), torch.ones(2, 2)
    known = SharedSamples([ModelInputs((), {"ids": ids, "mask": mask})])
    predict = known.watching(lambda **inputs: 1)
    assert predict(ids=ids + 4, mask=mask) == 1
    with pytest.raises(DataError, match="row 0"):
        predict(ids=ids, mask=mask)


def test_what_has_no_rows_is_no_sample() -> None:
    known = SharedSamples([ModelInputs((torch.tensor(3.0),), {})])
    assert known.watching(lambda x: x)(torch.tensor(3.0)) == 3
