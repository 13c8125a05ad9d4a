from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from qpass.backends.onnxruntime.watchdog import Watchdog


def run(watchdog: Watchdog, seconds: float, takes: float) -> Any:
    """Returns the options of a run that goes on until it is ended, or for ``takes`` seconds."""
    options: Any = SimpleNamespace(terminate=False)
    with watchdog.limit(options, seconds):
        wait_for(lambda: options.terminate, takes)
    return options


def wait_for(holds: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < end:
        time.sleep(0.001)
    return held


def watchdogs() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "qpass watchdog"}


def test_only_a_run_beyond_its_limit_is_ended() -> None:
    watchdog = Watchdog()
    assert not run(watchdog, 30, takes=0.05).terminate
    start = time.monotonic()
    assert run(watchdog, 0.2, takes=20).terminate
    assert time.monotonic() - start >= 0.2


def test_a_limit_that_ends_before_an_earlier_run_s_is_kept() -> None:
    watchdog = Watchdog()
    patient: Any = SimpleNamespace(terminate=False)
    with watchdog.limit(patient, 300):
        time.sleep(0.05)  # the thread sleeps until the first deadline
        assert run(watchdog, 0.1, takes=20).terminate
    assert not patient.terminate


def test_runs_at_the_same_time_have_limits_of_their_own() -> None:
    watchdog, found = Watchdog(), {}
    limits = (0.1, 0.2, 60.0)
    threads = [threading.Thread(target=lambda s=s: found.update({s: run(watchdog, s, takes=1.0).terminate})) for s in limits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0.1: True, 0.2: True, 60.0: False}


def test_many_runs_share_one_thread_which_ends_after_them() -> None:
    before, watchdog = watchdogs(), Watchdog()
    for _ in range(200):
        run(watchdog, 1.0, takes=0)
        assert len(watchdogs() - before) == 1
    assert wait_for(lambda: not watchdogs() - before)
    assert run(watchdog, 0.1, takes=20).terminate


def test_an_error_of_a_run_ends_its_watch() -> None:
    watchdog = Watchdog()
    options: Any = SimpleNamespace(terminate=False)
    with pytest.raises(KeyError), watchdog.limit(options, 0.05):
        raise KeyError
    time.sleep(0.15)
    assert not options.terminate
