from __future__ import annotations

import pytest

from qpass.errors import DataError
from qpass.runtime.plain_data import TEXT, check_plain, printable


@pytest.mark.parametrize("text", ["", "blocks.0.attn", "a\n\tb", "é 中 🙂", "<script>", "$x$", "x" * TEXT])
def test_texts_that_are_only_shown_pass(text: str) -> None:
    check_plain({text: [text, {"a": text}]}, "file")
    assert printable(text) == text


@pytest.mark.parametrize("text", ["\x1b[31m", "\0", "\x7f", "\x9b", "\u202e", "\u2066", "\udfff", "\r", "x" * (TEXT + 1)])
@pytest.mark.parametrize("place", ["value", "key", "inside"])
def test_texts_that_do_more_are_refused(text: str, place: str) -> None:
    data = {"value": [text], "key": {text: 1}, "inside": [{"a": [[text]]}]}[place]
    with pytest.raises(DataError, match=r"file: holds a text of|file: holds the text"):
        check_plain(data, "file")


def test_numbers_have_64_bits() -> None:
    check_plain([2**64, -(2**64), 1e308, float("nan"), True, None], "file")
    with pytest.raises(DataError, match="beyond 64 bits"):
        check_plain([[2**64 + 1]], "file")


def test_terminals_get_no_control_characters() -> None:
    assert printable("a\x1b[31mb\u202e") == r"a\x1b[31mb\u202e"
