"""Finished blocks on disk, so that a run that was killed goes on behind the last of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from qpass.errors import ConfigError, DataError


class BlockCheckpoints:
    """One file for each finished block: the tensors of its modules, and what the report says of it.

    Args:
        folder: Where they lie; made if it is not there. None keeps nothing.
        fingerprint: Of everything that the result depends on; files of another run are refused.
    """

    def __init__(self, folder: Path | None, fingerprint: str) -> None:
        self._folder, self._fingerprint = folder, fingerprint
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"cannot be made ({error.strerror})", where=f"checkpoint_dir {folder}") from error

    def load(self, block: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Returns the tensors and the record of a finished block, or None.

        Raises:
            ConfigError: If the file is another run's.
            DataError: If it cannot be read.
        """
        path = self._path(block)
        if path is None or not path.exists():
            return None
        try:
            with safetensors.safe_open(path, "pt") as file:
                header = json.loads((file.metadata() or {})["qpass"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
            hint = "delete it: the block is learned again"
            raise DataError(f"cannot be read: {error}", where=str(path), hint=hint) from error
        if header["fingerprint"] != self._fingerprint:
            raise ConfigError(
                "holds blocks of another run",
                where=f"checkpoint_dir {self._folder}",
                expected="the same model, calibration data, config and seed",
                hint="give another folder, or delete this one",
            )
        return tensors, header["record"]

    def save(self, block: str, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Writes a finished block, whole or not at all."""
        path = self._path(block)
        if path is None:
            return
        header = json.dumps({"fingerprint": self._fingerprint, "record": record})
        kept = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        draft = path.with_suffix(".part")
        try:
            draft.write_bytes(safetensors.torch.save(kept, metadata={"qpass": header}))
            os.replace(draft, path)
        except OSError as error:
            raise DataError(f"cannot be written ({error.strerror})", where=str(path)) from error

    def _path(self, block: str) -> Path | None:
        return None if self._folder is None else self._folder / f"{block}.safetensors"


def fingerprint(text: str, tensors: Iterable[Tensor]) -> str:
    """Returns a digest of a text and of the exact values of tensors."""
    digest = hashlib.sha256(text.encode())
    for tensor in tensors:
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
