"""A time limit for onnxruntime's runs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import onnxruntime as ort


class Watchdog:
    """Ends runs that take too long: one thread for all of them, started when it is needed.

    A thread for each run would take half as long as a small network. The thread sleeps until the
    earliest deadline, whether or not that run has ended by then, and ends if no run is left.
    """

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._runs: dict[int, tuple[float, ort.RunOptions]] = {}
        self._has_thread = False
        self._wakes = 0.0

    @contextmanager
    def limit(self, options: ort.RunOptions, seconds: float) -> Iterator[None]:
        """Sets ``options.terminate`` if the body takes longer than ``seconds``.

        Args:
            options: The options of one run, not shared with another that is watched.
            seconds: The limit.
        """
        deadline = time.monotonic() + seconds
        with self._change:
            if not self._has_thread:
                threading.Thread(target=self._watch, name="qpass watchdog", daemon=True).start()
                self._has_thread = True
            elif deadline < self._wakes:
                self._change.notify()
            self._runs[id(options)] = deadline, options
        try:
            yield
        finally:
            with self._change:
                self._runs.pop(id(options), None)

    def _watch(self) -> None:
        with self._change:
            while self._runs:
                self._wakes = min(deadline for deadline, _ in self._runs.values())
                self._change.wait(self._wakes - time.monotonic())
                now = time.monotonic()
                for key, (deadline, options) in list(self._runs.items()):
                    if deadline <= now:
                        options.terminate = True
                        del self._runs[key]
            self._has_thread = False


#: Watches the runs of every session.
WATCHDOG = Watchdog()
# A forked process has none of the threads, and perhaps a copy of the lock while it was held.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=WATCHDOG.__init__)  # type: ignore[misc]
