"""Files are read within a bound, and what is no file is not read at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qpass.data import regular_file
from qpass.data.regular_file import read_regular_file, read_text
from qpass.errors import DataError


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    (tmp_path / "link").symlink_to(path)
    assert read_regular_file(path, 5, "a table") == read_regular_file(tmp_path / "link", 5, "a table") == b"12345"
    with pytest.raises(DataError, match=r"file: has 5 bytes; expected a table of at most 4 bytes"):
        read_regular_file(path, 4, "a table")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match=r"pipe: is not a file; expected a table"):
        read_regular_file(tmp_path / "pipe", 5, "a table")
    with pytest.raises(DataError, match=r"none: does not exist; expected a table"):
        read_regular_file(tmp_path / "none", 5, "a table")
    with pytest.raises(DataError, match=r"cannot be read|does not exist"):
        read_regular_file(tmp_path / "a\0b", 5, "a table")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "file").write_bytes(b"1")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"file: cannot be read: .*Permission denied"):
        read_regular_file(tmp_path / "file", 5, "a table")


def test_text_is_utf8_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table"
    path.write_text("größe", encoding="utf-8")
    assert read_text(path, "a table") == "größe"
    path.write_bytes(b"gr\xf6\xdfe")
    with pytest.raises(DataError, match=r"table: cannot be read: .*utf-8.*; expected a table"):
        read_text(path, "a table")
    monkeypatch.setattr(regular_file, "LARGEST_TABLE", 4)
    with pytest.raises(DataError, match=r"table: has 5 bytes"):
        read_text(path, "a table")
