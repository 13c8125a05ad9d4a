"""Rows that are missing or stale are measured once, whoever measures them."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
import row_runs
import stored_rows
from recipes import Recipe
from row_runs import Pending, pending, run
from stored_rows import Row, RowStore

from tests.benchmarks.rows import made_with, measured

WANTED = [(Recipe("w8a8", "w8a8"), 0), (Recipe("w4a8", "w4a8"), 0), (Recipe("w4a8", "w4a8"), 1)]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RowStore:
    """Holds a row that is up to date and a stale one."""
    monkeypatch.setattr(row_runs, "RowStore", lambda name: RowStore(name, tmp_path))
    store = RowStore("n", tmp_path)
    key = store.keep_sources({})
    store.put(measured("w8a8", config=WANTED[0][0].digest, provenance=made_with(sources=key)))
    store.put(measured("w4a8", config="another", provenance=made_with(sources=key)))
    return store


def _pending(**options: bool) -> list[Pending]:
    return list(pending("n", WANTED, **{"only_stale": False, "fresh": False} | options))


def test_missing_and_stale_rows_are_pending(store: RowStore) -> None:
    assert [(row.recipe.name, row.seed, row.why) for row in _pending()] == [
        ("w4a8", 0, "the recipe has changed"),
        ("w4a8", 1, "missing"),
    ]
    assert [(row.recipe.name, row.seed) for row in _pending(only_stale=True)] == [("w4a8", 0)]
    assert len(_pending(fresh=True)) == 3


def test_each_row_is_measured_by_one_process(store: RowStore) -> None:
    """Two processes list the same rows; the second finds the first done and measures nothing."""
    counted: list[tuple[str, int]] = []

    def measure(row: Pending) -> Row:
        counted.append((row.recipe.name, row.seed))
        return measured(row.recipe.name, row.seed, config=row.recipe.digest)

    lists = [_pending(fresh=True), _pending(fresh=True)]
    with store.claimed(("w8a8", 0)):
        run(lists[0], measure)
    assert counted == [("w4a8", 0), ("w4a8", 1)], "the claimed row is left to the other process"
    run(lists[1], measure)
    assert counted == [("w4a8", 0), ("w4a8", 1), ("w8a8", 0)]
    assert stored_rows.CodeHistory({"s0": {}}).why_stale(store.read()["w4a8", 0], WANTED[1][0].digest) == ""


def test_a_row_that_fails_does_not_cost_the_others(store: RowStore) -> None:
    def measure(row: Pending) -> Row:
        if row.seed == 0:
            raise ValueError("no such layer")
        return measured(row.recipe.name, row.seed)

    with pytest.raises(click.ClickException, match=r"w4a8 +seed 0"):
        run(_pending(), measure)
    assert store.read().keys() == {("w8a8", 0), ("w4a8", 0), ("w4a8", 1)}
