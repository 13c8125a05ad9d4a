"""What a run's settings record, so that it can be repeated and its files be recognized."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
from torch import Tensor

from qpass.cli.command_group import ARGUMENTS
from qpass.version import __version__

#: Packages that a result depends on.
_PACKAGES = ("torch", "onnx", "onnxruntime", "onnxscript", "numpy", "pillow", "timm", "transformers")


def command_line() -> tuple[str, ...]:
    """Returns the command that is running, as it was given; empty outside of a command."""
    context = click.get_current_context(silent=True)
    return () if context is None else ("qpass", *context.meta.get(ARGUMENTS, ()))


def versions() -> dict[str, str]:
    """Returns the versions of qpass, Python and the packages that a result depends on."""
    return {"qpass": __version__, "python": platform.python_version(), **dict(_installed())}


def _installed() -> Iterator[tuple[str, str]]:
    for name in _PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def file_digest(path: Path) -> str:
    """Returns the SHA-256 digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class DigestOfBatches:
    """Passes batches on and digests their values.

    Args:
        batches: Batches of images.
    """

    def __init__(self, batches: Iterable[Tensor]) -> None:
        self._batches, self._value = batches, hashlib.sha256()

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches:
            for image in batch:  # independent of how images are batched
                self._value.update(f"{image.dtype} {tuple(image.shape)}".encode())
                self._value.update(image.contiguous().numpy().tobytes())
            yield batch

    @property
    def value(self) -> str:
        """The SHA-256 digest of the images that were passed on."""
        return self._value.hexdigest()
