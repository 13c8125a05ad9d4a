"""Tensors in memory up to a limit, and beyond it in a file that vanishes however the process ends."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from qpass.errors import ConfigError, DataError
from qpass.runtime.arguments import is_number

#: Smaller tensors always stay in memory: a file page for each would cost more than it saves.
SMALL_BYTES = 1 << 16
#: Default memory limit in GiB.
DEFAULT_GIB = 4.0


def bytes_of(max_memory: float) -> int:
    """Converts a limit in GiB to bytes.

    Raises:
        ConfigError: If it is not a number of 0 or more.
    """
    if not is_number(max_memory, int, float) or not max_memory >= 0:
        raise ConfigError(f"got {max_memory!r}", where="max_memory", expected="GiB, 0 or more")
    return int(min(max_memory, 2.0**30) * 2**30)


class Storage:
    """Keeps tensors: the first ``max_bytes`` in memory, the rest in one unnamed temporary file.

    The file lies where Python's ``tempfile`` puts it (``TMPDIR`` changes that). It has no name, so a
    killed process leaves nothing behind. Tensors in the file take no memory; reads return copies.

    Args:
        max_bytes: Bytes to keep in memory; None means no limit.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        self._room = max_bytes
        self._file: Any = None
        self._end = 0
        self._free: dict[int, list[int]] = defaultdict(list)

    def keep(self, tensor: Tensor) -> SpilledTensor:
        """Keeps a tensor: the tensor itself if it fits in memory, else a copy in the file.

        Of a GPU tensor, a CPU copy is kept.
        """
        kept = SpilledTensor(self, tensor.shape, tensor.dtype, tensor.device, tensor)
        if kept.on_disk:
            kept.write(0, tensor)
        return kept

    def allocate(self, shape: Sequence[int], like: Tensor) -> SpilledTensor:
        """Allocates a CPU tensor to be written row by row.

        Args:
            shape: Its shape.
            like: A tensor of its dtype.
        """
        return SpilledTensor(self, torch.Size(shape), like.dtype, torch.device("cpu"), None)

    def __deepcopy__(self, memo: Any) -> Storage:
        return self  # copies of a graph share its storage

    def _take(self, size: int) -> bool:
        """Reserves memory; returns whether there was enough."""
        if self._room is None or size < SMALL_BYTES:
            return True
        if size > self._room:
            return False
        self._room -= size
        return True

    def _give_back(self, size: int) -> None:
        if self._room is not None and size >= SMALL_BYTES:
            self._room += size

    def _take_on_disk(self, size: int) -> int:
        """Returns the offset of this many bytes in the file; it grows if no gap of that size is free."""
        if self._free[size]:
            return self._free[size].pop()
        start, self._end = self._end, self._end + size
        return start

    def _transfer(self, start: int, tensor: Tensor, *, write: bool) -> None:
        """Writes a contiguous tensor to the file, or reads it from there."""
        view: Any = memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="qpass-", buffering=0)  # noqa: SIM115 (closed with the storage)
            self._file.seek(start)
            while view:  # the system may transfer less than requested
                view = view[self._file.write(view) if write else self._file.readinto(view) :]
        except OSError as error:
            raise DataError(
                f"a temporary file of {self._end} bytes cannot be used ({error.strerror})",
                where=tempfile.gettempdir(),
                hint="set TMPDIR to a disk with room, or raise max_memory",
            ) from error


class SpilledTensor:
    """A tensor in a ``Storage``; its space is freed with its last reference."""

    def __init__(
        self, storage: Storage, shape: torch.Size, dtype: torch.dtype, device: torch.device, tensor: Tensor | None
    ) -> None:
        self.shape, self.dtype, self._device, self._storage = shape, dtype, device, storage
        self._bytes = shape.numel() * dtype.itemsize
        self._start: int | None = None
        self._tensor: Tensor | None = None
        if storage._take(self._bytes):
            self._tensor = torch.empty(shape, dtype=dtype) if tensor is None else tensor.cpu()
        else:
            self._start = storage._take_on_disk(self._bytes)

    @property
    def nbytes(self) -> int:
        """Size in bytes, in memory or in the file."""
        return self._bytes

    @property
    def on_disk(self) -> bool:
        """Whether it is in the file."""
        return self._start is not None

    def read(self, rows: Tensor | slice | None = None) -> Tensor:
        """Returns the tensor, or some of its rows, on its original device.

        A whole CPU tensor that was kept in memory is returned itself, not as a copy.
        """
        if self._tensor is not None:
            return (self._tensor if rows is None else self._tensor[rows]).to(self._device)
        assert self._start is not None
        if rows is None:
            found = torch.empty(self.shape, dtype=self.dtype)
            self._storage._transfer(self._start, found, write=False)
            return found.to(self._device)
        index = torch.arange(self.shape[0])[rows]
        found = torch.empty((len(index), *self.shape[1:]), dtype=self.dtype)
        for first, last in _runs(index.tolist()):
            place = self._start + int(index[first]) * self._row_bytes
            self._storage._transfer(place, found[first : last + 1], write=False)
        return found.to(self._device)

    def write(self, start: int, value: Tensor) -> None:
        """Writes rows, beginning at row ``start``."""
        if self._tensor is not None:
            self._tensor[start : start + len(value)] = value
        else:
            assert self._start is not None
            self._storage._transfer(self._start + start * self._row_bytes, value.cpu().contiguous(), write=True)

    @property
    def _row_bytes(self) -> int:
        return self._bytes // max(1, self.shape[0]) if self.shape else self._bytes

    def __deepcopy__(self, memo: Any) -> SpilledTensor:
        return self

    def __del__(self) -> None:
        if getattr(self, "_start", None) is not None:
            self._storage._free[self._bytes].append(self._start)  # type: ignore[arg-type]
        elif getattr(self, "_tensor", None) is not None:
            self._storage._give_back(self._bytes)


class SpilledTensors(MutableMapping[str, Tensor]):
    """Tensors by name in a ``Storage``; tensors in its file are read on every access.

    Args:
        storage: Where to keep them; None keeps all of them in memory.
    """

    def __init__(self, storage: Storage | None = None) -> None:
        self._storage, self._kept = storage or Storage(), dict[str, SpilledTensor]()

    def __getitem__(self, name: str) -> Tensor:
        return self._kept[name].read()

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        self._kept.pop(name, None)  # frees its space for the new one
        self._kept[name] = self._storage.keep(tensor)

    def __delitem__(self, name: str) -> None:
        del self._kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)


def _runs(index: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yields the first and last position of each run of consecutive numbers."""
    first = 0
    for place in range(1, len(index) + 1):
        if place == len(index) or index[place] != index[place - 1] + 1:
            yield first, place - 1
            first = place
