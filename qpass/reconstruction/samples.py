"""The values that cross the cuts of a graph, for all calibration samples, within a bound of memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qpass.errors import UnsupportedError
from qpass.reconstruction.segments import Segment


class SampleStore:
    """Keeps values by name, sample by sample, and gives them back for any samples.

    A tensor whose first dim is a multiple of the batch is kept in rows (windows of an image stay with it), a whole number that
    is a multiple of the batch size is scaled, and all else must be the same for every batch.

    Args:
        samples: How many there are.
        limit: Bytes in memory; tensors beyond it lie in files that vanish with the store.
    """

    def __init__(self, samples: int, limit: int) -> None:
        self.samples, self._room = samples, limit
        self._rows: dict[str, Tensor] = {}
        self._per_sample: dict[str, int] = {}
        self._shared: dict[str, Any] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def put(self, name: str, start: int, rows: int, value: Any) -> None:
        """Keeps the value of the samples ``start`` to ``start + rows``.

        Raises:
            UnsupportedError: If it neither goes by samples nor is the same for all.
        """
        if isinstance(value, Tensor) and value.dim() and value.shape[0] % rows == 0 and not self._is_shared(name, value):
            each = value.shape[0] // rows
            if name not in self._rows:
                self._rows[name], self._per_sample[name] = self._allocate((self.samples * each, *value.shape[1:]), value), each
            self._rows[name][start * each : (start + rows) * each] = value.detach().to("cpu")
        elif isinstance(value, int) and not isinstance(value, bool) and value % rows == 0:
            self._per_sample[name] = value // rows
        elif name not in self._shared:
            self._shared[name] = value
        elif not self._is_shared(name, value):
            raise UnsupportedError(
                "a value between blocks has no dim for the samples", where=name, hint="quantize without reconstruction"
            )

    def _is_shared(self, name: str, value: Any) -> bool:
        kept = self._shared.get(name)
        return bool(torch.equal(kept, value)) if isinstance(kept, Tensor) and isinstance(value, Tensor) else kept is value

    def _allocate(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        size = torch.Size(shape).numel() * like.element_size()
        if size <= self._room:
            self._room -= size
            return torch.empty(shape, dtype=like.dtype)
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="qpass-samples-")
        file = Path(self._folder.name) / str(len(self._rows))
        return torch.from_file(str(file), shared=True, size=torch.Size(shape).numel(), dtype=like.dtype).view(shape)

    def get(self, name: str, samples: Tensor | slice, device: torch.device) -> Any:
        """Returns a value for some samples: the tensor's rows, or the number or tensor that it is."""
        if name in self._shared:
            value = self._shared[name]
            return value.to(device) if isinstance(value, Tensor) else value
        index = torch.arange(self.samples)[samples] if isinstance(samples, slice) else samples
        each = self._per_sample[name]
        if name not in self._rows:
            return len(index) * each
        if each > 1:
            index = (index[:, None] * each + torch.arange(each)).flatten()
        return self._rows[name][index].to(device)

    def keep_only(self, names: Iterable[str]) -> None:
        """Forgets every value but these."""
        wanted = set(names)
        for name in [name for name in self._rows if name not in wanted]:
            rows = self._rows.pop(name)
            self._room += 0 if rows.is_shared() else rows.numel() * rows.element_size()


def batches_of(samples: int, size: int) -> Iterator[slice]:
    """Yields slices that cover all samples in order, each ``size`` long but perhaps the last."""
    for start in range(0, samples, size):
        yield slice(start, min(start + size, samples))


def advance(store: SampleStore, segment: Segment, size: int, device: torch.device) -> None:
    """Runs a segment on every sample and keeps its outputs in the store."""
    with torch.no_grad():
        for part in batches_of(store.samples, size):
            values = segment.graph_module(*(store.get(name, part, device) for name in segment.inputs))
            for name, value in zip(segment.outputs, values, strict=True):
                store.put(name, part.start, part.stop - part.start, value)
