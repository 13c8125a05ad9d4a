"""What an error says: what, where, expected, and what to do."""

from __future__ import annotations

import pytest

import qpass.errors as errors
from qpass.errors import ConfigError, PassError, QPassError, check_keys, first_line, nearest


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "is wrong"),
        ({"where": "x"}, "x: is wrong"),
        ({"where": "x", "expected": "5", "hint": "try it"}, "x: is wrong; expected 5; try it"),
        ({"hint": "try it"}, "is wrong; try it"),
    ],
)
def test_the_parts_of_a_message(fields: dict[str, str], text: str) -> None:
    error = ConfigError("is wrong", **fields)
    assert str(error) == text
    error.args = ("what torch.fx has added",)
    assert str(error) == text


def test_all_but_a_fault_of_a_pass_are_of_one_class() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) > 8
    assert [kind for kind in kinds if not issubclass(kind, QPassError)] == [PassError]


def test_the_nearest_word_or_all_of_them() -> None:
    assert nearest("bitz", ["bits", "scale"]) == "did you mean 'bits'?"
    assert nearest("xyz", ["bits", "scale", "bits"]) == "valid: bits, scale"
    assert nearest("zzz", [f"name{n:02}" for n in range(20)]).endswith("name11, ...")
    assert nearest("a", []) == "there is nothing to choose from"


def test_the_first_line_of_another_library() -> None:
    assert first_line(ValueError("\n  a\nb")) == "a"
    assert first_line(ValueError("")) == "ValueError"
    assert len(first_line(ValueError("x" * 1000))) == 300


def test_keys_that_are_unknown_are_refused() -> None:
    check_keys({"a": 1, "b": 2}, ("a", "b", "c"), "here")
    with pytest.raises(ConfigError, match="here: unknown key 'bitz'; did you mean 'bits'"):
        check_keys({"bitz": 1}, ("bits",), "here")
