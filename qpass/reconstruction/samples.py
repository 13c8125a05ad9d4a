"""Values that cross the cuts of a graph, for all calibration samples, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from qpass.errors import UnsupportedError
from qpass.reconstruction.segments import Segment
from qpass.runtime.arguments import is_number
from qpass.runtime.storage import SpilledTensor, Storage

#: Rows read at a time.
_AT_A_TIME = 1024


class SampleStore:
    """Stores values by name and sample, and returns them for any samples.

    A tensor whose dim 0 is a multiple of the batch size is stored by rows (an image's windows stay
    together). An integer that is a multiple of the batch size is scaled. Anything else must be the
    same in every batch.

    Args:
        samples: Number of samples.
        storage: Where rows are kept; values shared by all samples stay in memory.
    """

    def __init__(self, samples: int, storage: Storage) -> None:
        self.samples, self._storage = samples, storage
        self._rows: dict[str, SpilledTensor] = {}
        self._per_sample: dict[str, int] = {}
        self._shared: dict[str, Any] = {}

    def put(self, name: str, start: int, rows: int, value: Any) -> None:
        """Stores the value for samples ``start`` to ``start + rows``.

        Raises:
            UnsupportedError: If it neither has a dim for the samples nor is the same in every batch.
        """
        if isinstance(value, Tensor) and value.dim() and value.shape[0] % rows == 0 and not self._is_shared(name, value):
            each = value.shape[0] // rows
            if name not in self._rows:
                shape = (self.samples * each, *value.shape[1:])
                self._rows[name], self._per_sample[name] = self._storage.allocate(shape, value), each
            self._rows[name].write(start * each, value.detach().to("cpu"))
        elif is_number(value, int) and value % rows == 0:
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

    def get(self, name: str, samples: Tensor | slice, device: torch.device) -> Any:
        """Returns a value for some samples: its rows, its scaled integer, or the shared value."""
        if name in self._shared:
            value = self._shared[name]
            return value.to(device) if isinstance(value, Tensor) else value
        index = torch.arange(self.samples)[samples] if isinstance(samples, slice) else samples
        each = self._per_sample[name]
        if name not in self._rows:
            return len(index) * each
        if each > 1:
            index = (index[:, None] * each + torch.arange(each)).flatten()
        return self._rows[name].read(index).to(device)

    def has_rows(self, name: str) -> bool:
        """Returns whether a value is stored with rows of each sample."""
        return name in self._rows

    def is_finite(self, name: str) -> bool:
        """Returns whether a value is a floating-point tensor with rows of each sample, all finite."""
        parts = (self._rows[name].read(part) for part in torch.arange(self._total(name)).split(_AT_A_TIME))
        return self.has_rows(name) and all(part.is_floating_point() and bool(part.isfinite().all()) for part in parts)

    def _total(self, name: str) -> int:
        return self.samples * self._per_sample.get(name, 0)

    def drop(self, names: Iterable[str]) -> None:
        """Drops the rows of these values."""
        for name in names:
            self._rows.pop(name, None)

    def keep_only(self, names: Iterable[str]) -> None:
        """Drops the rows of all other values."""
        self.drop(self._rows.keys() - set(names))


def batches_of(samples: int, size: int) -> Iterator[slice]:
    """Yields slices of length ``size`` that cover all samples in order; the last may be shorter."""
    for start in range(0, samples, size):
        yield slice(start, min(start + size, samples))


def advance(store: SampleStore, segment: Segment, size: int, device: torch.device, *, where_possible: bool = False) -> None:
    """Runs a segment on every sample and stores its outputs.

    Args:
        store: Has the segment's inputs.
        segment: The segment.
        size: Samples at a time.
        device: Where the segment is.
        where_possible: Leave out outputs that have no rows of each sample, such as a sum over a batch.

    Raises:
        UnsupportedError: For such an output, unless they are left out.
    """
    left_out = set[str]()
    with torch.no_grad():
        for part in batches_of(store.samples, size):
            values = segment.graph_module(*(store.get(name, part, device) for name in segment.inputs))
            for name, value in zip(segment.outputs, values, strict=True):
                try:
                    store.put(name, part.start, part.stop - part.start, value)
                except UnsupportedError:
                    if not where_possible:
                        raise
                    left_out.add(name)
    store.drop(left_out)
