"""Keeps output of torch's exporters off the terminal: what this thread prints and logs, and no other."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: Loggers that exporters write notes and partial graphs to.
_LOGGERS = ("torch.export", "torch.fx.experimental.symbolic_shapes", "torch.onnx", "onnxscript", "onnx_ir")


@contextmanager
def quiet_thread() -> Iterator[None]:
    """Drops what this thread prints and logs in the block, except errors. Other threads are unaffected."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    streams = {name: _Stream(getattr(sys, name)) for name in ("stdout", "stderr")}
    ident = threading.get_ident()
    errors_only = lambda record: record.thread != ident or record.levelno >= logging.ERROR  # noqa: E731
    for logger in loggers:
        logger.addFilter(errors_only)
    for name, stream in streams.items():
        setattr(sys, name, stream)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(errors_only)
        for name, stream in streams.items():
            stream.dropped_thread = None  # another thread may have saved it, and restore it later
            if getattr(sys, name) is stream:
                setattr(sys, name, stream.kept)


class _Stream:
    """A stream that drops what one thread writes.

    Args:
        kept: The stream that receives everything else.
    """

    def __init__(self, kept: Any) -> None:
        self.kept = kept
        self.dropped_thread: int | None = threading.get_ident()

    def write(self, text: str) -> int:
        """See ``io.TextIOBase``."""
        if threading.get_ident() == self.dropped_thread:
            return len(text)
        return int(self.kept.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.kept, name)
