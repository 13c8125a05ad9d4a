from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

import qpass
from qpass.errors import ConfigError
from qpass.runtime.storage import SMALL_BYTES, Storage, bytes_of

MANY = SMALL_BYTES  # values of four bytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_what_is_on_disk_comes_back(dtype: torch.dtype) -> None:
    storage = Storage(0)
    tensors = [torch.randn(3, MANY).mul(100).to(dtype), torch.randn(MANY, 2).to(dtype)]
    kept = [storage.keep(tensor) for tensor in tensors]
    assert all(each.on_disk for each in kept)
    for tensor, each in zip(tensors, kept, strict=True):
        assert torch.equal(each.read(), tensor)
        assert torch.equal(each.read(torch.tensor([2, 0])), tensor[[2, 0]])


def test_rows_are_written_and_read_alone() -> None:
    for storage in (Storage(0), Storage()):
        kept = storage.allocate((6, MANY), torch.zeros(1))
        x = torch.randn(6, MANY)
        kept.write(4, x[4:])
        kept.write(0, x[:4])
        assert torch.equal(kept.read(), x)
        assert torch.equal(kept.read(slice(1, 3)), x[1:3])


def test_what_is_read_from_disk_is_a_copy() -> None:
    kept = Storage(0).keep(torch.zeros(MANY))
    kept.read().fill_(1)
    assert not kept.read().any()


def test_room_in_memory_and_on_disk_is_used_again() -> None:
    storage = Storage(4 * MANY)
    first, second = storage.keep(torch.zeros(MANY)), storage.keep(torch.ones(MANY))
    assert (first.on_disk, second.on_disk) == (False, True)
    end = storage._end
    del first, second
    gc.collect()
    again = [storage.keep(torch.full((MANY,), float(i))) for i in range(2)]
    assert [each.on_disk for each in again] == [False, True]
    assert storage._end == end
    assert again[1].read()[0] == 1


def test_its_file_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kept = Storage(0).keep(torch.ones(MANY))
    assert kept.on_disk
    assert list(tmp_path.iterdir()) == [], "nothing that a killed process could leave behind"


def test_small_tensors_stay_in_memory() -> None:
    assert not Storage(0).keep(torch.zeros(4)).on_disk


@pytest.mark.slow
def test_pages_on_disk_are_not_the_process_s_memory() -> None:
    """A gigabyte passes through a process whose peak stays far below it."""
    script = """
import resource, torch
from qpass.runtime.storage import Storage
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
storage = Storage(0)
kept = [storage.keep(torch.full((2**24,), float(i))) for i in range(16)]
assert [k.read(slice(5, 6)).item() for k in kept] == [float(i) for i in range(16)]
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20)
"""
    grown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert float(grown) < 0.4, "of 1 GiB"


@pytest.mark.parametrize("bound", [-1, float("nan"), "4GB", True, None])
def test_bounds_that_are_none_are_refused(bound: object, vit: torch.nn.Module, images: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="max_memory: got"):
        qpass.quantize_graph(vit, [images], max_memory=bound, progress=False)  # type: ignore[arg-type]
    assert bytes_of(0.5) == 2**29


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["mixed-w4a5", "aiqvit-w4a4", "ias-vit-w4a4", "w3a8-residual"])
def test_the_bits_do_not_depend_on_the_bound(preset: str, vit: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing in memory the network is the same, to the bit."""
    monkeypatch.setattr("qpass.runtime.storage.SMALL_BYTES", 1)
    images = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(5)).split(8)
    recipes = {
        "mixed-w4a5": {"preset": "mixed-w4a5", "token_weights": "hessian"},
        "aiqvit-w4a4": {"preset": "aiqvit-w4a4", "reconstruction": {"steps": 3, "search_steps": 2, "batch_size": 4}},
        "ias-vit-w4a4": {"preset": "ias-vit-w4a4", "reconstruction": {"steps": 3, "batch_size": 4}},
        "w3a8-residual": {"preset": "w3a8", "weight_rounding": "nearest", "weight": {"residual_rank": 4}},
    }
    free, bound = (
        qpass.quantize_graph(vit, images, recipes[preset], max_memory=gib, progress=False).state_dict() for gib in (4, 0)
    )
    assert free.keys() == bound.keys()
    for name, tensor in free.items():
        assert torch.equal(tensor, bound[name]), name
