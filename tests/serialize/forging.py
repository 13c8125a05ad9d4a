"""Files as an attacker writes them: any header and tensors, with the digest that fits them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from qpass.serialize.tensors import digest_of

Change = Callable[[dict[str, Any], dict[str, Tensor]], object]


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns header and tensors as they are in a file."""
    with safetensors.safe_open(path, "pt") as file:
        return json.loads(file.metadata()["qpass"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def rewrite(path: Path, change: Change, *, forge: bool = True) -> None:
    """Changes header and tensors of a file in place.

    Args:
        path: The file.
        change: Gets both and changes them.
        forge: Whether the digest is made to fit.
    """
    header, tensors = read(path)
    change(header, tensors)
    if forge:
        rest = {key: value for key, value in header.items() if key not in ("format", "digest")}
        header["digest"] = digest_of(tensors, rest)
    path.write_bytes(safetensors.torch.save(tensors, metadata={"qpass": json.dumps(header)}))
