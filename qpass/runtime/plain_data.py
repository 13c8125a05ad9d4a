"""Checks plain JSON data from untrusted files: size limits, and characters that affect a terminal."""

from __future__ import annotations

import re
from typing import Any

from qpass.errors import DataError

#: Total values in a file. The header of a ViT-L, of 4 million characters, has 250,000.
VALUES = 2**22
#: Characters of one text, such as the reason why a layer stayed float.
TEXT = 10_000
#: Largest magnitude of an integer.
_GREATEST = 2**64
#: Control characters affect terminals, direction overrides mislead readers, and lone surrogates
#: cannot be encoded.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def check_plain(data: Any, where: str) -> None:
    """Rejects control characters, integers beyond 64 bits, and more values than any qpass file holds.

    Args:
        data: Plain data, nested to any depth.
        where: Location for error messages.

    Raises:
        DataError: Naming what was found.
    """
    waiting, count = [data], 0
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict | list):
            count += len(item)
            if count > VALUES:
                raise DataError("holds too many values", where=where, expected=f"at most {VALUES}")
            waiting += item
            if isinstance(item, dict):
                waiting += item.values()
        elif isinstance(item, str):
            check_text(item, where)
        elif isinstance(item, int) and abs(item) > _GREATEST:
            raise DataError("holds a number beyond 64 bits", where=where, expected="numbers that tensors can hold")


def check_text(text: str, where: str) -> None:
    """Rejects a text that is too long or contains control characters.

    Raises:
        DataError: Naming the length or the text.
    """
    if len(text) > TEXT:
        raise DataError(f"holds a text of {len(text)} characters", where=where, expected=f"at most {TEXT}")
    if _UNPRINTABLE.search(text):
        raise DataError(f"holds the text {ascii(text)[:60]}", where=where, expected="texts without control characters")


def printable(text: str) -> str:
    """Returns a text with control characters escaped, for a terminal."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)
