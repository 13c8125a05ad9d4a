from __future__ import annotations

import pytest
import torch

from qpass.errors import UnsupportedError
from qpass.reconstruction.samples import SampleStore
from qpass.runtime.storage import Storage

CPU = torch.device("cpu")


@pytest.mark.parametrize("limit", [0, 2**20], ids=["in files", "in memory"])
def test_rows_come_back_for_any_samples(limit: int) -> None:
    store, x = SampleStore(10, Storage(limit)), torch.randn(10, 3000)
    store.put("x", 0, 6, x[:6])
    store.put("x", 6, 4, x[6:])
    assert store._rows["x"].on_disk == (limit == 0)
    assert torch.equal(store.get("x", slice(4, 8), CPU), x[4:8])
    assert torch.equal(store.get("x", torch.tensor([9, 0, 5]), CPU), x[[9, 0, 5]])


def test_windows_stay_with_their_sample_and_sizes_scale() -> None:
    store, windows = SampleStore(4, Storage()), torch.arange(12.0).view(12, 1)
    for start in (0, 2):
        store.put("windows", start, 2, windows[start * 3 : start * 3 + 6])
        store.put("count", start, 2, 6)
    assert store.get("windows", torch.tensor([2, 0]), CPU).flatten().tolist() == [6, 7, 8, 0, 1, 2]
    assert store.get("count", torch.tensor([2, 0, 1]), CPU) == 9


def test_what_is_the_same_for_all_is_shared_and_what_is_neither_is_refused() -> None:
    store = SampleStore(6, Storage())
    shared = torch.randn(5, 2)
    store.put("mask", 0, 3, shared)
    store.put("mask", 3, 3, shared.clone())
    assert torch.equal(store.get("mask", slice(0, 1), CPU), shared)
    store.put("odd", 0, 3, torch.zeros(5))
    with pytest.raises(UnsupportedError, match="odd: a value between blocks has no dim for the samples"):
        store.put("odd", 3, 3, torch.ones(5))


def test_forgotten_values_make_room() -> None:
    value = torch.zeros(4, 2**14)
    store = SampleStore(4, Storage(4 * value.numel()))
    store.put("a", 0, 4, value)
    store.keep_only(())
    store.put("b", 0, 4, value)
    assert not store._rows["b"].on_disk, "there was room in memory again"
    store.put("c", 0, 4, value)
    assert store._rows["c"].on_disk
