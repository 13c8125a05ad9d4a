"""Samples of the two factors of a product, to measure what quantizing one of them does to it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qpass.quantizers import Quantizer
from qpass.runtime.storage import SpilledTensor, Storage

#: A sample of A, and the B that it is multiplied by.
Pair = tuple[Tensor, Tensor]


class ProductObserver:
    """Keeps a bounded sample of A (..., N, M) and B (..., M, d) as they enter A B.

    Args:
        name: Node or module that errors name.
        samples: How many leading entries (batch times heads) are kept.
        rows: How many rows of A are kept of each, evenly spread.
        storage: Where they are kept; None is in memory.
    """

    def __init__(self, name: str, *, samples: int = 48, rows: int = 32, storage: Storage | None = None) -> None:
        self.name, self.samples, self.rows = name, samples, rows
        self._storage = Storage() if storage is None else storage
        self._kept: list[tuple[SpilledTensor, SpilledTensor]] = []

    @property
    def pairs(self) -> list[Pair]:
        """What was kept of A and of B, batch by batch, read into memory."""
        return [(a.read(), b.read()) for a, b in self._kept]

    def update(self, a: Tensor, b: Tensor) -> None:
        """Keeps some of one batch, while there is room."""
        room = self._room()
        if room <= 0:
            return
        a, b = a.detach(), b.detach().expand(*a.shape[:-2], *b.shape[-2:])
        step = max(1, a.shape[-2] // self.rows)
        a = a[..., ::step, :].reshape(-1, len(range(0, a.shape[-2], step)), a.shape[-1])
        b = b.reshape(-1, *b.shape[-2:])
        # A quarter of the room at most, so that several batches are heard.
        count = min(len(a), max(1, self.samples // 4), room)
        chosen = torch.arange(count) * len(a) // count
        self._keep(a[chosen], b[chosen])

    def merge(self, others: Sequence[Sequence[Pair]]) -> None:
        """Keeps what one observer would have kept of all batches, which went to several in turn.

        Args:
            others: Pairs of the batches 0, n, 2n, ..., then 1, n + 1, ..., and so on; this one's own are among them.
        """
        self._kept = []
        for a, b in (pair for pairs in itertools.zip_longest(*others) for pair in pairs if pair):
            count = min(len(a), self._room())
            if count > 0:
                chosen = torch.arange(count) * len(a) // count
                self._keep(a[chosen], b[chosen])

    def _room(self) -> int:
        return self.samples - sum(a.shape[0] for a, _ in self._kept)

    def _keep(self, a: Tensor, b: Tensor) -> None:
        self._kept.append((self._storage.keep(a.cpu()), self._storage.keep(b.cpu())))

    def criterion(self) -> Callable[[Quantizer], float]:
        """Returns the squared error of the product when a quantizer is applied to A. It holds the samples in memory."""
        pairs = self.pairs

        def error(quantizer: Quantizer) -> float:
            # The difference is taken before the product: quantize(A) - A is what the product multiplies.
            return sum(((quantizer(a) - a) @ b).double().square().sum().item() for a, b in pairs)

        return error
