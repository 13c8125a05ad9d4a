"""What Python itself reports while a file is read: processes, writes, imports and connections."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: Names of audit events that reading a file has no need of (https://docs.python.org/3/library/audit_events.html).
_HARM = ("os.", "subprocess.", "socket.", "shutil.", "ctypes.", "pickle.", "urllib.", "ftplib.", "pty.", "webbrowser.")
_HARMLESS = ("os.listdir", "os.scandir", "os.stat", "ctypes.dlsym", "os.putenv", "os.unsetenv")
_seen: list[str] | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is None:
        return
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or (event.startswith(_HARM) and not event.startswith(_HARMLESS)):
        _seen.append(f"{event} {arguments}")


sys.addaudithook(_hook)


@contextmanager
def harm() -> Iterator[list[str]]:
    """Gives a list of everything that happens meanwhile and should not."""
    global _seen
    _seen = []
    try:
        yield _seen
    finally:
        _seen = None
