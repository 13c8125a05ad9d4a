"""A change of code that writes the same files leaves rows valid; any other marks them as stale."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import provenance
import pytest
from equal_code import EqualCode, equal_code, is_equal, keep_equal_code
from stored_rows import CodeHistory

from tests.benchmarks.rows import measured

BEFORE = {"qpass/a.py": "old", "benchmarks/task.py": "same"}
AFTER = {"qpass/a.py": "new"}


def record(**changes: object) -> EqualCode:
    ours = provenance.digest({"qpass/a.py": "old"}), provenance.digest(AFTER)
    return dataclasses.replace(EqualCode("abc", "def", *ours, ("mnist",), ("w8a8", "float")), **changes)  # type: ignore[arg-type]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The code of today, which a test may change further."""
    digests = AFTER | {"benchmarks/task.py": "same"}
    monkeypatch.setattr(provenance, "sources", lambda learns: {k: v for k, v in digests.items() if k.startswith("qpass/")})
    monkeypatch.setattr(
        provenance, "changed", lambda before: [name for name, value in before.items() if digests[name] != value]
    )
    return digests


def test_a_recipe_with_the_same_files_is_not_stale(now: dict[str, str]) -> None:
    sources = {"s0": BEFORE}
    assert CodeHistory(sources).why_stale(measured("w8a8"), "c0") == "changed since: qpass/a.py"
    assert CodeHistory(sources, [record()]).why_stale(measured("w8a8"), "c0") == ""
    assert CodeHistory(sources, [record()]).why_stale(measured("w4a4"), "c0") == "changed since: qpass/a.py", "its files differ"


def test_it_holds_for_this_change_alone(now: dict[str, str]) -> None:
    assert is_equal("w8a8", BEFORE, [record()])
    assert not is_equal("w8a8", BEFORE | {"qpass/a.py": "older"}, [record()])
    now["qpass/a.py"] = "newer"
    assert not is_equal("w8a8", BEFORE, [record()])


def test_another_evaluation_is_never_equal(now: dict[str, str]) -> None:
    now["benchmarks/task.py"] = "other"
    assert not is_equal("w8a8", BEFORE, [record()])


def test_what_is_kept_comes_back_and_replaces_what_was_known_of_the_same_code(tmp_path: Path) -> None:
    assert equal_code(tmp_path) == []
    other = record(before="x")
    keep_equal_code(tmp_path, record(recipes=()))
    keep_equal_code(tmp_path, other)
    keep_equal_code(tmp_path, record())
    assert equal_code(tmp_path) == [other, record()]
