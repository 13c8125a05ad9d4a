"""Dataclasses from plain data: what asdict and JSON make of them comes back, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pytest

from qpass.errors import DataError
from qpass.runtime.records import from_plain, record


@dataclass(frozen=True)
class Inner:
    n: int
    share: float | None = None


@dataclass(frozen=True)
class Outer:
    name: str
    rows: tuple[Inner, ...]
    pair: tuple[int, str]
    errors: Mapping[int, float] = field(default_factory=dict)
    anything: Any = None


VALUE = Outer("a", (Inner(1), Inner(2, 0.5)), (3, "b"), {4: 0.25, 8: 1.0}, [1, {"x": None}])


def test_what_json_makes_of_a_record_comes_back() -> None:
    assert record(Outer, json.loads(json.dumps(asdict(VALUE))), "outer") == VALUE
    assert record(Outer, asdict(VALUE), "outer") == VALUE


def test_whole_numbers_are_numbers_and_defaults_may_be_missing() -> None:
    inner = record(Inner, {"n": 1, "share": 2}, "inner")
    assert inner == Inner(1, 2.0)
    assert type(inner.share) is float
    assert record(Inner, {"n": 1}, "inner") == Inner(1)


GOOD = asdict(VALUE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": 3}, "outer.name: is a int; expected str"),
        ({"rows": {}}, "outer.rows: is a dict; expected a list"),
        ({"rows": [{"n": True}]}, r"outer.rows\[0\].n: is a bool; expected int"),
        ({"rows": [{"n": 1, "share": "x"}]}, r"outer.rows\[0\].share: is a str; expected float"),
        ({"rows": [{"n": 1, "share": 2**2000}]}, r"outer.rows\[0\].share: is a int; expected float"),
        ({"rows": [[]]}, r"outer.rows\[0\]: is a list; expected the fields of Inner"),
        ({"rows": [{}]}, r"outer.rows\[0\]: has the fields \[\]; expected \['n', 'share'\]"),
        ({"pair": [1]}, "outer.pair: has 1 entries; expected 2"),
        ({"pair": [1, 2]}, r"outer.pair\[1\]: is a int; expected str"),
        ({"errors": [1]}, "outer.errors: is a list; expected a mapping"),
        ({"errors": {"x": 1.0}}, r"outer.errors: has the keys \['x'\]; expected whole numbers"),
        ({"errors": {"4": None}}, r"outer.errors\['4'\]: is a NoneType; expected float"),
        ({"more": 1}, r"outer: has the fields .*'more'"),
    ],
)
def test_other_data_is_refused_by_the_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        record(Outer, {**GOOD, **changes}, "outer")


def test_anything_is_left_as_it_is() -> None:
    value = object()
    assert from_plain(Any, value, "x") is value
