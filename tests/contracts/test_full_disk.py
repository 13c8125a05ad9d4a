"""A disk that is full: each writer says so by name, and leaves nothing behind."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from torch import fx

import qpass
from qpass.errors import QPassError


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """Lets no file grow past some bytes: the system refuses to write more, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


WRITERS: dict[str, Callable[[fx.GraphModule, Path], object]] = {
    "export_onnx": lambda graph, folder: qpass.export_onnx(graph, folder / "m.onnx"),
    "save": lambda graph, folder: qpass.save(graph, folder / "m.qpass"),
    "to_yaml": lambda graph, folder: qpass.QuantConfig.from_any("w4a4").to_yaml(folder / "recipe.yaml"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_named_and_nothing_is_left(name: str, quantized: fx.GraphModule, tmp_path: Path) -> None:
    with full_disk(100), pytest.raises(QPassError, match=rf"{tmp_path}.*cannot be written"):
        WRITERS[name](quantized, tmp_path)
    assert list(tmp_path.iterdir()) == []
