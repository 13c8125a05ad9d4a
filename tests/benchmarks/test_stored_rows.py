"""Stored rows come back as they were; processes and machines add to the same file."""

from __future__ import annotations

import dataclasses
import multiprocessing
from contextlib import ExitStack
from pathlib import Path

import provenance
import pytest
from stored_rows import CodeHistory, Row, RowStore

from tests.benchmarks.rows import made_with, measured


@pytest.mark.parametrize("samples", [[100.0, 0.0, 100.0], [0.0] * 17, [31.25, -0.5, 99.0]])
def test_a_row_comes_back_as_it_was(samples: list[float], tmp_path: Path) -> None:
    row = measured(samples=samples, in_torch={"top-1": 1.0}, schedule="quick, 1 of 2 steps", drops={"top-1": (1.0, 0.5)})
    RowStore("n", tmp_path).put(row)
    assert RowStore("n", tmp_path).read() == {("w8a8", 0): row}


def test_a_row_without_provenance_comes_back(tmp_path: Path) -> None:
    row = Row("w8a8", 0, "", {"top-1": 1.0}, True, 1.0, drops={"top-1": (1.0, 0.5)})
    RowStore("n", tmp_path).put(row)
    assert RowStore("n", tmp_path).read() == {row.key: row}


def _put(folder: Path, seeds: range) -> None:
    for seed in seeds:
        RowStore("n", folder).put(measured(seed=seed))


def test_processes_that_add_rows_at_the_same_time_lose_none(tmp_path: Path) -> None:
    jobs = [multiprocessing.get_context("fork").Process(target=_put, args=(tmp_path, range(k, 40, 4))) for k in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [seed for _, seed in RowStore("n", tmp_path).read()] == list(range(40))


def test_a_row_is_claimed_once(tmp_path: Path) -> None:
    stores = [RowStore("n", tmp_path) for _ in range(3)]
    keys = [("w8a8", 0), ("w8a8", 0), ("w8a8", 1)]
    with ExitStack() as held:
        assert [held.enter_context(store.claimed(key)) for store, key in zip(stores, keys, strict=True)] == [True, False, True]
    with RowStore("n", tmp_path).claimed(("w8a8", 0)) as again:
        assert again


def test_merging_takes_what_is_missing_or_newer(tmp_path: Path) -> None:
    here, other = RowStore("n", tmp_path / "here"), RowStore("n", tmp_path / "other")
    old, new = made_with(date="2026-11-01"), made_with(date="2026-11-30")
    here.put(measured("kept", provenance=new), measured("replaced", provenance=old), measured("undated", provenance=None))
    other.put(*(measured(name, provenance=made_with(commit="def")) for name in ("kept", "replaced", "undated", "added")))
    key = other.keep_sources({"a.py": "1"})
    assert sorted(name for name, _ in here.merge(tmp_path / "other")) == ["added", "replaced", "undated"]
    commits = {name: row.provenance.commit for (name, _), row in here.read().items() if row.provenance}
    assert commits == {"kept": "abc", "replaced": "def", "undated": "def", "added": "def"}
    assert here.all_sources() == {key: {"a.py": "1"}}
    assert here.merge(tmp_path / "other") == []


def test_a_row_is_stale_once_its_recipe_or_its_code_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    provenance._digest_of_file.cache_clear()
    (tmp_path / "a.py").write_text("x = 1\n", encoding="utf-8")
    known = {"s0": {"a.py": provenance.digest_of_code("x = 1")}}
    row = measured()
    assert CodeHistory(known).why_stale(row, "c0") == ""
    assert CodeHistory(known).why_stale(row, "c1") == "the recipe has changed"
    assert "not known" in CodeHistory({}).why_stale(row, "c0")
    assert "before" in CodeHistory(known).why_stale(dataclasses.replace(row, provenance=None), "c0")
    provenance._digest_of_file.cache_clear()
    (tmp_path / "a.py").write_text("x = 2\n", encoding="utf-8")
    assert CodeHistory(known).why_stale(row, "c0") == "changed since: a.py"
    (tmp_path / "a.py").unlink()
    assert CodeHistory(known).why_stale(row, "c0") == "changed since: a.py"
    provenance._digest_of_file.cache_clear()
