"""Calibration batches that are read repeatedly, in memory or on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from qpass.data.batches import ModelInputs
from qpass.runtime.storage import SpilledTensor, Storage


class KeptBatches(Sequence[ModelInputs]):
    """A list of model calls whose tensors live in a ``Storage``.

    Args:
        storage: The storage.
        device: Device to which tensors are moved when read; None does not move them.
    """

    def __init__(self, storage: Storage, device: torch.device | str | None = None) -> None:
        self.storage, self._device = storage, device
        self._batches: list[Any] = []

    def append(self, batch: ModelInputs) -> None:
        """Appends a batch."""
        keep = lambda leaf: self.storage.keep(leaf.detach()) if isinstance(leaf, Tensor) else leaf  # noqa: E731
        self._batches.append(pytree.tree_map(keep, tuple(batch)))

    def on(self, device: torch.device | str) -> KeptBatches:
        """Returns the same batches, moved to ``device`` when read."""
        moved = KeptBatches(self.storage, device)
        moved._batches = self._batches
        return moved

    def only(self, places: Sequence[int]) -> KeptBatches:
        """Returns the batches at these indices without reading them."""
        some = KeptBatches(self.storage, self._device)
        some._batches = [self._batches[place] for place in places]
        return some

    def __len__(self) -> int:
        return len(self._batches)

    @overload
    def __getitem__(self, index: int) -> ModelInputs: ...
    @overload
    def __getitem__(self, index: slice) -> KeptBatches: ...
    def __getitem__(self, index: int | slice) -> ModelInputs | KeptBatches:
        if isinstance(index, slice):
            some = KeptBatches(self.storage, self._device)
            some._batches = self._batches[index]
            return some
        read = lambda leaf: leaf.read() if isinstance(leaf, SpilledTensor) else leaf  # noqa: E731
        batch = ModelInputs(*pytree.tree_map(read, self._batches[index]))
        return batch if self._device is None else batch.to(self._device)
