"""Saves finished blocks to disk, so that a killed run resumes after the last finished block."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from qpass.errors import ConfigError, DataError
from qpass.runtime.distributed import ALONE, Processes
from qpass.runtime.tensor_file import digest, read_tensors, write_tensors

_HINT = "delete it: the block is learned again"


class BlockCheckpoints:
    """One file per finished block: the tensors of its modules and its record for the report.

    Args:
        folder: Folder of the files, created if missing. None saves nothing.
        fingerprint: Fingerprint of everything that affects the result; files of another run are
            rejected.
        processes: Processes that learn together. The first one writes, and decides which blocks exist.
    """

    def __init__(self, folder: Path | None, fingerprint: str, processes: Processes = ALONE) -> None:
        self._folder, self._fingerprint, self._processes = folder, fingerprint, processes
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"cannot be made ({error.strerror})", where=f"checkpoint_dir {folder}") from error

    def load(self, block: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Returns the tensors and the record of a finished block, or None.

        Raises:
            ConfigError: If the file belongs to another run.
            DataError: If it cannot be read, or is not what ``save`` wrote for this block.
        """
        path = self._path(block)
        if path is None or not self._processes.gather(path.exists())[0]:
            return None
        header, tensors = read_tensors(path, expected="a learned block", hint=_HINT)
        if header.get("fingerprint") != self._fingerprint:
            raise ConfigError(
                "holds blocks of another run",
                where=f"checkpoint_dir {self._folder}",
                expected="the same network before its blocks were learned, to the bit",
                hint="another machine or number of threads rounds differently: use another folder, or delete this one",
            )
        if header.get("digest") != _digest(block, self._fingerprint, header.get("record"), tensors):
            raise DataError("is damaged, or another block's", where=str(path), expected="a learned block", hint=_HINT)
        return tensors, header["record"]

    def save(self, block: str, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Writes a finished block atomically."""
        path = self._path(block)
        if path is None or not self._processes.first:
            return
        kept = json.loads(json.dumps(record))
        digest = _digest(block, self._fingerprint, kept, tensors)
        write_tensors(path, tensors, {"fingerprint": self._fingerprint, "record": kept, "digest": digest})

    def _path(self, block: str) -> Path | None:
        return None if self._folder is None else self._folder / f"{block}.safetensors"


def _digest(block: str, fingerprint: str, record: Any, tensors: Mapping[str, Tensor]) -> str:
    """Returns a digest of a file's content: tensors, record, block and run."""
    names = sorted(tensors)
    return digest(json.dumps([block, fingerprint, record, names], sort_keys=True), [tensors[name] for name in names])
