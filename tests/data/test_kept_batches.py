"""Batches that are kept give back what was given, from memory or from disk."""

from __future__ import annotations

import pytest
import torch

from qpass.data import ModelInputs
from qpass.data.kept_batches import KeptBatches
from qpass.runtime.storage import Storage


def calls() -> list[ModelInputs]:
    return [
        ModelInputs((torch.full((n, 2), float(n)),), {"more": [torch.arange(n), "text"], "flag": n == 2}) for n in (1, 2, 3)
    ]


@pytest.fixture(params=[0, 10**9], ids=["on disk", "in memory"])
def kept(request: pytest.FixtureRequest) -> KeptBatches:
    batches = KeptBatches(Storage(request.param))
    for call in calls():
        batches.append(call)
    return batches


def same(found: ModelInputs, expected: ModelInputs) -> bool:
    return (
        torch.equal(found.args[0], expected.args[0])
        and torch.equal(found.kwargs["more"][0], expected.kwargs["more"][0])
        and found.kwargs["more"][1:] == expected.kwargs["more"][1:]
        and found.kwargs["flag"] == expected.kwargs["flag"]
    )


def test_they_come_back_in_order_and_as_often_as_wanted(kept: KeptBatches) -> None:
    assert len(kept) == 3
    for _ in range(2):
        assert all(map(same, kept, calls()))
    assert same(kept[-1], calls()[-1])
    with pytest.raises(IndexError):
        kept[3]


def test_slices_and_choices_are_batches_too(kept: KeptBatches) -> None:
    assert [len(batch.args[0]) for batch in kept[1:]] == [2, 3]
    assert [len(batch.args[0]) for batch in kept.only([2, 0])] == [3, 1]
    assert isinstance(kept[1:], KeptBatches)


def test_they_are_moved_to_a_device_as_they_are_read(kept: KeptBatches) -> None:
    moved = kept.on("meta")
    for view in (moved, moved[:2], moved.only([0])):
        assert view[0].args[0].device == view[0].kwargs["more"][0].device == torch.device("meta")
    assert kept[0].args[0].device == torch.device("cpu")


def test_gradients_are_not_kept() -> None:
    batches = KeptBatches(Storage())
    batches.append(ModelInputs((torch.ones(2, requires_grad=True),), {}))
    assert not batches[0].args[0].requires_grad
