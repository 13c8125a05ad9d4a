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


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Returns the paths to everything in plain data."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


def at(data: Any, place: tuple[Any, ...]) -> Any:
    """Returns what lies at a path in plain data."""
    for key in place:
        data = data[key]
    return data


#: What ``alter`` can do.
WAYS = ("replace", "drop", "rename", "insert")


def alter(header: dict[str, Any], place: tuple[Any, ...], how: str, word: Any) -> None:
    """Changes a header at one place, in one of ``WAYS``, with a word that stands in for what was there."""
    *above, last = place
    parent = at(header, tuple(above))
    if how == "replace":
        parent[last] = word
    elif how == "drop":
        del parent[last]
    elif how == "rename" and isinstance(parent, dict):
        parent[str(word)] = parent.pop(last)
    elif isinstance(parent, list):
        parent.insert(last, word)
