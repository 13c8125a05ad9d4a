"""Tensor files with a JSON header: safetensors, no pickle, written atomically."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from qpass.errors import DataError
from qpass.runtime.atomic_write import draft_of

_KEY = "qpass"
#: Bytes: torch's allocator on a CPU starts every tensor at a multiple of it.
ALIGNMENT = 64
#: Longest header in characters, the limit of safetensors.
GREATEST_HEADER = 10**8


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    header: Mapping[str, Any],
    *,
    check: Callable[[Path], None] | None = None,
) -> None:
    """Writes tensors and header atomically.

    Args:
        path: The file.
        tensors: Tensors by name.
        header: Plain data for JSON.
        check: Called with the finished draft; if it raises, an existing file is kept.

    Raises:
        DataError: If the path cannot be written; an existing file is kept.
    """
    kept = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        with draft_of(path) as draft:
            draft.write_bytes(safetensors.torch.save(kept, metadata={_KEY: json.dumps(header)}))
            if check is not None:
                check(draft)
    except OSError as error:
        raise DataError(f"cannot be written ({error.strerror})", where=str(path)) from error


def read_tensors(
    path: Path, *, expected: str, hint: str = "", most: int = GREATEST_HEADER
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns the header and tensors of a file that ``write_tensors`` wrote.

    Args:
        path: The file.
        expected: Expectation for error messages.
        hint: Hint for error messages.
        most: Longest header accepted, in characters.

    Raises:
        DataError: If it cannot be read, or has no such header.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            if text is not None and len(text) > most:
                raise DataError(f"has a header of {len(text)} characters", where=str(path), expected=f"at most {most}")
            tensors = {name: _aligned(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 (no mapping)
        header = None if text is None else json.loads(text)
    except (OSError, ValueError, RecursionError, safetensors.SafetensorError) as error:
        raise DataError(f"cannot be read: {error}", where=str(path), expected=expected, hint=hint) from error
    if not isinstance(header, dict):
        raise DataError("has no header of qpass", where=str(path), expected=expected, hint=hint)
    return header, tensors


def _aligned(tensor: Tensor) -> Tensor:
    """Returns a tensor at an address that is aligned as torch's allocator aligns it.

    The summation order of a product depends on the alignment of its factors. Without this, a loaded
    network could differ from the saved one in the last bit.
    """
    return tensor.clone() if tensor.data_ptr() % ALIGNMENT else tensor


def digest(text: str, tensors: Iterable[Tensor]) -> str:
    """Returns the SHA-256 digest of a text and the exact values of tensors."""
    value = hashlib.sha256(text.encode())
    for tensor in tensors:
        tensor = tensor.detach().cpu().contiguous()
        value.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():
            value.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return value.hexdigest()
