"""The label of each path: worked tables."""

from __future__ import annotations

import pytest

from qpass.data.labels import read_labels, relative
from qpass.errors import DataError

PATHS = ["a/1.png", "b/1.png", "b/2.png"]


def read(table: str, paths: list[str] = PATHS, *, beside: str = "") -> list[int]:
    return read_labels("file,label\n" + table, paths, "labels.csv", lambda path: path.removeprefix(beside))


@pytest.mark.parametrize(
    ("path", "expected"),
    [("./a//b.png", "a/b.png"), ("a\\b.png", "a/b.png"), ("/a/b.png ", "a/b.png"), ("a/../b.png", "b.png")],
)
def test_paths_are_compared_in_one_form(path: str, expected: str) -> None:
    assert relative(path) == expected


def test_the_order_is_that_of_the_images() -> None:
    assert read("b/2.png,7\nb/1.png,5\na/1.png,3\n") == [3, 5, 7]
    assert read("./a/1.png,3\nb\\1.png,5\n2.png,7\nnot there.png,9\n") == [3, 5, 7]


def test_a_path_counts_before_the_path_beside_the_table_and_that_before_a_name() -> None:
    assert read("2.png,1\nb/2.png,2\n", ["b/2.png"]) == [2]
    assert read("1.png,4\n", ["val/1.png"], beside="val/") == [4]
    assert read("1.png,4\nval/1.png,5\n", ["val/1.png", "1.png"], beside="val/") == [5, 4], "which names the other image"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("1.png,0\nb/2.png,1\n", r"labels.csv: '1.png' is the name of a/1.png, b/1.png; write their paths in the table"),
        ("b/2.png,1\n", r"labels.csv: no label for a/1.png \(and 1 more\): a/1.png, b/1.png"),
        ("a/1.png,1\nb/1.png,1\n", r"no label for b/2.png \(and 0 more\)$"),
        ("a/1.png,1\n./a/1.png,2\n", "a/1.png has the labels 1 and 2; expected one label"),
        ("a/1.png,-1\n", "bad row: a/1.png has the label -1; expected the header file,label and whole numbers from 0"),
        ("a/1.png,x\n", "bad row: invalid literal"),
        ("a/1.png\n", "bad row"),
    ],
)
def test_tables_that_do_not_settle_it_are_refused(table: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(table)


def test_a_table_without_its_header_is_refused() -> None:
    with pytest.raises(DataError, match="bad row: 'file'"):
        read_labels("a/1.png,1\nb/1.png,2\n", PATHS, "labels.csv", str)
