"""Full-precision float32 products: torch has a global and per-library settings that lower their
precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

#: torch's settings by library and operator, with torch's defaults. Settings that others inherit
#: from come first.
_DEFAULTS = {
    **dict.fromkeys((("generic", "all"), ("mkldnn", "all"), ("cuda", "all")), "none"),
    **dict.fromkeys((("mkldnn", "matmul"), ("mkldnn", "conv"), ("mkldnn", "rnn"), ("cuda", "matmul")), "none"),
    **dict.fromkeys((("cuda", "conv"), ("cuda", "rnn")), "tf32"),
}


@contextmanager
def full_products() -> Iterator[None]:
    """Sets torch's defaults; restores the caller's settings at the end, in the form they were set."""
    settings, precision = _settings(), _precision()
    changed = settings != _DEFAULTS or precision not in (None, "highest")
    if changed:
        _set(_DEFAULTS)
        torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        if changed:
            if precision is not None:
                torch.set_float32_matmul_precision(precision)
            _set(settings)


def _precision() -> str | None:
    """Returns the global setting; None if torch raises because individual settings differ."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def _settings() -> dict[tuple[str, str], str]:
    """Returns the settings as they were set.

    torch's getter returns inherited values, so the parent settings are cleared meanwhile.
    """
    found = {}
    for place in _DEFAULTS:
        found[place] = torch._C._get_fp32_precision_getter(*place)
        if place[1] == "all" and found[place] != "none":
            torch._C._set_fp32_precision_setter(*place, "none")
    _set({place: value for place, value in found.items() if place[1] == "all" and value != "none"})
    return found


def _set(settings: dict[tuple[str, str], str]) -> None:
    for (library, operator), value in settings.items():
        torch._C._set_fp32_precision_setter(library, operator, value)
