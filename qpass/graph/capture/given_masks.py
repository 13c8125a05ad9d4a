"""Uses masks of ``nn.Transformer`` as given: torch's check for causal masks cannot be exported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.nn.modules import transformer


@contextmanager
def given_masks() -> Iterator[None]:
    """Makes ``nn.TransformerEncoder`` and ``nn.TransformerDecoder`` trust ``is_causal``.

    They no longer inspect the mask, but still apply it, so the outputs stay the same.
    """
    name = "_detect_is_causal_mask"  # private in torch: if it is removed, exports fail as they do without this
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
