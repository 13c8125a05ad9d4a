"""Samples of both factors of a matmul, to measure the output error of quantizing one of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qpass.quantizers import Quantizer
from qpass.runtime.storage import SpilledTensor, Storage

#: A sample of A and the matching B.
Pair = tuple[Tensor, Tensor]


class ProductObserver:
    """Keeps a bounded sample of the factors A (..., N, M) and B (..., M, d) of a product A B.

    Args:
        name: Node or module named in errors.
        samples: Number of leading entries (batch times heads) to keep.
        rows: Number of rows of A to keep per entry, evenly spread.
        storage: Where to keep them; None keeps them in memory.
    """

    def __init__(self, name: str, *, samples: int = 48, rows: int = 32, storage: Storage | None = None) -> None:
        self.name, self.samples, self.rows = name, samples, rows
        self._storage = Storage() if storage is None else storage
        self._kept: list[tuple[SpilledTensor, SpilledTensor]] = []

    @property
    def pairs(self) -> list[Pair]:
        """The samples of A and B, batch by batch, read into memory."""
        return [(a.read(), b.read()) for a, b in self._kept]

    def update(self, a: Tensor, b: Tensor) -> None:
        """Samples one batch, while there is room."""
        room = self._room()
        if room <= 0:
            return
        a, b = a.detach(), b.detach().expand(*a.shape[:-2], *b.shape[-2:])
        step = max(1, a.shape[-2] // self.rows)
        a = a[..., ::step, :].reshape(-1, len(range(0, a.shape[-2], step)), a.shape[-1])
        b = b.reshape(-1, *b.shape[-2:])
        # At most a quarter of all samples, so that several batches contribute.
        count = min(len(a), max(1, self.samples // 4), room)
        chosen = torch.arange(count) * len(a) // count
        self._keep(a[chosen], b[chosen])

    def merge(self, others: Sequence[Sequence[Pair]]) -> None:
        """Replaces the samples by those that one observer would have kept of all processes' batches.

        Args:
            others: Pairs of the batches 0, n, 2n, ..., then 1, n + 1, ..., and so on, including this
                observer's own.
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
        """Returns a function that scores a quantizer for A by the squared error of A B.

        The function holds the samples in memory.
        """
        pairs = self.pairs

        def error(quantizer: Quantizer) -> float:
            # Subtract before multiplying: one product of quantize(A) - A suffices.
            return sum(((quantizer(a) - a) @ b).double().square().sum().item() for a, b in pairs)

        return error
