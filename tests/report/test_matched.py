from __future__ import annotations

from qpass.report.matched import matched


def test_rows_are_matched_by_name_and_number() -> None:
    first, second = ["a1", "b1", "a2"], ["c1", "a1", "a2", "a3"]
    assert matched(first, second, lambda row: row[0]) == [
        ("a", ("a1", "a1")),
        ("b", ("b1", None)),
        ("a", ("a2", "a2")),
        ("c", (None, "c1")),
        ("a", (None, "a3")),
    ]
    assert matched([], [], str) == []
