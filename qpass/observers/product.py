"""Samples of the two factors of a product, to measure what quantizing one of them does to it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qpass.quantizers import Quantizer


class ProductObserver:
    """Keeps a bounded sample of A (..., N, M) and B (..., M, d) as they enter A B.

    Args:
        name: Node or module that errors name.
        samples: How many leading entries (batch times heads) are kept.
        rows: How many rows of A are kept of each, evenly spread.

    Attributes:
        pairs: What was kept of A and of B, batch by batch.
    """

    def __init__(self, name: str, *, samples: int = 48, rows: int = 32) -> None:
        self.name, self.samples, self.rows = name, samples, rows
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def update(self, a: Tensor, b: Tensor) -> None:
        """Keeps some of one batch, while there is room."""
        room = self.samples - sum(len(kept) for kept, _ in self.pairs)
        if room <= 0:
            return
        a, b = a.detach(), b.detach().expand(*a.shape[:-2], *b.shape[-2:])
        step = max(1, a.shape[-2] // self.rows)
        a = a[..., ::step, :].reshape(-1, len(range(0, a.shape[-2], step)), a.shape[-1])
        b = b.reshape(-1, *b.shape[-2:])
        # A quarter of the room at most, so that several batches are heard.
        count = min(len(a), max(1, self.samples // 4), room)
        chosen = torch.arange(count) * len(a) // count
        self.pairs.append((a[chosen].cpu(), b[chosen].cpu()))

    def merge(self, others: Sequence[ProductObserver]) -> None:
        """Keeps what one observer would have kept of all batches, which went to these in turn.

        Args:
            others: Of the batches 0, n, 2n, ..., then 1, n + 1, ..., and so on; this one may be among them.
        """
        in_turn = [pair for pairs in itertools.zip_longest(*(other.pairs for other in others)) for pair in pairs if pair]
        self.pairs = []
        for a, b in in_turn:
            count = min(len(a), self.samples - sum(len(kept) for kept, _ in self.pairs))
            if count > 0:
                chosen = torch.arange(count) * len(a) // count
                self.pairs.append((a[chosen], b[chosen]))

    def criterion(self) -> Callable[[Quantizer], float]:
        """Returns the squared error of the product when a quantizer is applied to A."""

        def error(quantizer: Quantizer) -> float:
            # The difference is taken before the product: quantize(A) - A is what the product multiplies.
            return sum(((quantizer(a) - a) @ b).double().square().sum().item() for a, b in self.pairs)

        return error
