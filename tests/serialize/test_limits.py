"""Limits hold at their last allowed value and not beyond it."""

from __future__ import annotations

from typing import Any

import pytest

import qpass.serialize.limits as limits
from qpass.errors import DataError
from qpass.serialize.limits import check_counts, check_depth, check_size, dotted_path, example_shape, identifier, shape


def nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"x": value}
    return value


def test_depth() -> None:
    check_depth(nested(limits.DEPTH))
    with pytest.raises(DataError, match=f"header: its data is nested; expected at most {limits.DEPTH} levels"):
        check_depth(nested(limits.DEPTH + 1))
    check_depth("text")


@pytest.mark.parametrize("name", ["x", "x_1", "a" * limits.NAME])
def test_identifiers(name: str) -> None:
    assert identifier(name, "x") == name


@pytest.mark.parametrize("name", ["", "1x", "a b", "class", "é", "a" * (limits.NAME + 1), 3, None, "self"])
def test_other_names_are_refused(name: Any) -> None:
    with pytest.raises(DataError, match=r"x: has the name .*; expected an identifier of Python"):
        identifier(name, "x")


@pytest.mark.parametrize("path", ["a", "a.0.b-c", ".".join(["a"] * limits.STEPS), "a b"])
def test_paths(path: str) -> None:
    assert dotted_path(path, "x") == path


@pytest.mark.parametrize(
    "path", ["", ".", "a.", "a..b", ".".join(["a"] * (limits.STEPS + 1)), "a'b", 'a"b', "a\\b", "a\nb", "a(b", "ﬁ", 5, "a[0]"]
)
def test_other_paths_are_refused(path: Any) -> None:
    """The ligature would be read as the two letters that Python makes of it."""
    with pytest.raises(DataError, match="x: has the path"):
        dotted_path(path, "x")


@pytest.mark.parametrize(("data", "expected"), [([], []), ((2, 0), [2, 0]), ([2**63 - 1], [2**63 - 1]), ([1] * 64, [1] * 64)])
def test_shapes(data: Any, expected: list[int]) -> None:
    assert shape(data, "x") == expected


@pytest.mark.parametrize("data", [None, "23", [-1], [1.0], [True], [2**63], [1] * 65, {"a": 1}])
def test_other_shapes_are_refused(data: Any) -> None:
    with pytest.raises(DataError, match="x: has the shape"):
        shape(data, "x")


def test_an_example_has_room() -> None:
    assert example_shape([2, 3], 4, 24, "x") == [2, 3]
    with pytest.raises(DataError, match=r"x: has the shape .*; expected at most"):
        example_shape([2, 3], 4, 23, "x")
    assert example_shape([2**40, 0], 4, 0, "x") == [2**40, 0]


def header(nodes: int = 0, modules: int = 0, regions: int = 0, deep: int = 0) -> dict[str, Any]:
    inner: dict[str, Any] = {"nodes": [0] * deep, "regions": {}}
    return {
        "nodes": [0] * nodes,
        "modules": [0] * modules,
        "regions": {"first": {"nodes": [], "regions": {"inner": inner}}, **{str(n): {} for n in range(regions)}},
    }


@pytest.fixture
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NODES", "REGIONS", "TENSORS", "ARGUMENTS"):
        monkeypatch.setattr(limits, name, 5)


@pytest.mark.usefixtures("_few")
@pytest.mark.parametrize(
    ("counts", "tensors", "message"),
    [
        ({"nodes": 3, "deep": 2}, 5, None),
        ({"nodes": 3, "deep": 3}, 0, "nodes: has 6 nodes; expected at most 5"),
        ({"modules": 6}, 0, "modules: has 6 modules"),
        ({"regions": 3}, 0, None),
        ({"regions": 4}, 0, "regions: has 6 regions"),
        ({}, 6, "tensors: has 6 tensors"),
    ],
)
def test_counts_of_a_graph_and_its_regions(counts: dict[str, int], tensors: int, message: str | None) -> None:
    given = (header(**counts), [str(n) for n in range(tensors)])
    if message is None:
        check_counts(*given)
        return
    with pytest.raises(DataError, match=message):
        check_counts(*given)


@pytest.mark.usefixtures("_few")
def test_arguments_are_counted_at_every_depth() -> None:
    check_size([1, [2, 3, 4]], "x")
    with pytest.raises(DataError, match="x: has too many arguments; expected at most 5 values"):
        check_size([1, {"a": [2, 3], "b": 4}], "x")
