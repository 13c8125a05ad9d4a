"""How inputs reach a forward: images (batch, 3, 12, 12) and, where it takes them, which tokens are seen (batch, tokens)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qpass.data.batches import ModelInputs

#: A forward calls the network's own function: of itself, of images, and of which tokens are seen or None.
Body = Callable[[Any, Tensor, Tensor | None], Any]


@dataclass(frozen=True)
class Style:
    """A signature, and batches for it.

    Attributes:
        forward: Makes a forward of a body.
        batch: Makes a batch of images and of which tokens are seen.
    """

    forward: Callable[[Body], Callable[..., Any]]
    batch: Callable[[Tensor, Tensor], Any]


def _keywords(body: Body) -> Callable[..., Any]:
    def forward(self: Any, x: Tensor, **others: Tensor) -> Any:
        return body(self, x, others["seen"])

    return forward


def _anything(body: Body) -> Callable[..., Any]:
    def forward(self: Any, *a: Tensor, **k: Tensor) -> Any:
        return body(self, a[0], k.get("seen"))

    return forward


STYLES: dict[str, Style] = {
    "tensor": Style(lambda body: lambda self, x: body(self, x, None), lambda x, seen: x),
    "with a target": Style(lambda body: lambda self, x: body(self, x, None), lambda x, seen: (x, torch.arange(len(x)))),
    "by name": Style(lambda body: lambda self, x, seen: body(self, x, seen), lambda x, seen: {"x": x, "seen": seen}),
    "positional": Style(lambda body: lambda self, x, seen: body(self, x, seen), lambda x, seen: ModelInputs((x, seen), {})),
    "mixed": Style(
        lambda body: lambda self, x, *, seen: body(self, x, seen), lambda x, seen: ModelInputs((x,), {"seen": seen})
    ),
    "not given": Style(lambda body: lambda self, x, seen=None: body(self, x, seen), lambda x, seen: {"x": x}),
    "unused": Style(lambda body: lambda self, x, seen: body(self, x, None), lambda x, seen: {"x": x, "seen": seen}),
    "nested": Style(
        lambda body: lambda self, inputs: body(self, inputs["x"], inputs["more"][0]),
        lambda x, seen: {"inputs": {"x": x, "more": [seen]}},
    ),
    "keywords": Style(_keywords, lambda x, seen: {"x": x, "seen": seen}),
    "anything": Style(_anything, lambda x, seen: ModelInputs((x,), {"seen": seen})),
}
