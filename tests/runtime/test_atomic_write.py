from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qpass.errors import DataError
from qpass.runtime.atomic_write import draft_of, remove_drafts, write_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_and_what_lies_beside_it_are_moved_into_place(tmp_path: Path) -> None:
    with draft_of(tmp_path / "model.onnx") as draft:
        draft.write_text("graph")
        (draft.parent / "model.onnx.data").write_text("weights")
        assert not (tmp_path / "model.onnx").exists()
    assert names(tmp_path) == ["model.onnx", "model.onnx.data"]
    assert (tmp_path / "model.onnx.data").read_text() == "weights"


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    write_whole(tmp_path / "f", "old")
    with pytest.raises(ZeroDivisionError), draft_of(tmp_path / "f") as draft:  # noqa: PT012
        draft.write_text("ne")
        raise ZeroDivisionError
    assert (tmp_path / "f").read_text() == "old"
    assert names(tmp_path) == ["f"]


def test_what_a_killed_process_leaves_is_no_file_and_can_be_removed(tmp_path: Path) -> None:
    kill = "import os, signal, pathlib; from qpass.runtime.atomic_write import draft_of\n"
    kill += f"with draft_of(pathlib.Path({str(tmp_path / 'f')!r})) as draft:\n"
    kill += "    draft.write_text('ne'); os.kill(os.getpid(), signal.SIGKILL)"
    assert subprocess.run([sys.executable, "-c", kill], check=False).returncode == -9
    assert not (tmp_path / "f").exists()
    assert len(names(tmp_path)) == 1
    (tmp_path / ".draft").touch()
    remove_drafts(tmp_path)
    assert names(tmp_path) == [".draft"], "and nothing else"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing.*cannot be written .No such file"):
        write_whole(tmp_path / "missing" / "f", "text")
