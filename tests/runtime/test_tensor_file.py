from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from qpass.errors import DataError
from qpass.runtime.tensor_file import ALIGNMENT, digest, read_tensors, write_tensors


def test_header_and_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 4).T, "b": torch.tensor(7, dtype=torch.int8), "none": torch.zeros(0, 2)}
    header = {"name": "x", "numbers": [1, 2.5]}
    write_tensors(tmp_path / "f", tensors, header)
    found, again = read_tensors(tmp_path / "f", expected="a file")
    assert found == header
    assert set(again) == set(tensors)
    assert all(torch.equal(again[name], tensors[name]) and again[name].dtype == tensors[name].dtype for name in tensors)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_tensors_begin_where_torch_lets_them_begin(tmp_path: Path) -> None:
    """A float Linear of five columns gave other last bits: a product adds in another order where a factor begins elsewhere."""
    sizes = {f"t{size}": torch.ones(size) for size in (1, 3, 5, 15, 17)}
    write_tensors(tmp_path / "f", sizes, {})
    _, again = read_tensors(tmp_path / "f", expected="a file")
    assert all(tensor.data_ptr() % ALIGNMENT == 0 for tensor in again.values())
    assert all(torch.empty(size).data_ptr() % ALIGNMENT == 0 for size in (1, 3, 5, 15, 17)), "torch does the same"


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tensors(tmp_path / "f", {"a": torch.ones(1)}, {})

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(DataError, match=r"f: cannot be written \(No space left on device\)"):
        write_tensors(tmp_path / "f", {"a": torch.zeros(1)}, {})
    monkeypatch.undo()
    assert read_tensors(tmp_path / "f", expected="a file")[1]["a"].item() == 1
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"no tensors")
    with pytest.raises(DataError, match=r"f: cannot be read: .*; expected a learned block; delete it"):
        read_tensors(tmp_path / "f", expected="a learned block", hint="delete it")
    with pytest.raises(DataError, match="cannot be read"):
        read_tensors(tmp_path / "missing", expected="a learned block")


def test_a_digest_changes_with_text_values_shape_and_type() -> None:
    x = torch.arange(6.0)
    different = [("a", [x]), ("b", [x]), ("a", [x + 1]), ("a", [x.view(2, 3)]), ("a", [x.int()]), ("a", [x, x[:0]]), ("a", [])]
    assert len({digest(text, tensors) for text, tensors in different}) == len(different)
    assert digest("a", [x.view(2, 3).T]) == digest("a", [x.view(2, 3).T.contiguous()])
