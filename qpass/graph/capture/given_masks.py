"""Masks of ``nn.Transformer`` are taken as they are given: torch looks whether they are causal, which no export can follow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.nn.modules import transformer


@contextmanager
def given_masks() -> Iterator[None]:
    """Lets ``nn.TransformerEncoder`` and ``nn.TransformerDecoder`` believe ``is_causal`` and read no mask to find out.

    The mask itself is applied either way, so their outputs stay the same.
    """
    name = "_detect_is_causal_mask"  # torch keeps it to itself, and may drop it: exports then fail as they do without this
    original = getattr(transformer, name, None)
    if original is None:
        yield
        return

    def believe(mask: Any, is_causal: bool | None = None, size: int | None = None) -> bool:
        return bool(is_causal)

    setattr(transformer, name, believe)
    try:
        yield
    finally:
        setattr(transformer, name, original)
