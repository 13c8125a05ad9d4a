from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from qpass.errors import DataError
from qpass.runtime.folder_lock import LOCK, alone_in

HOLDS = """
import sys, time
from pathlib import Path
from qpass.runtime.folder_lock import alone_in
with alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_folder_is_free_again_afterwards(tmp_path: Path) -> None:
    for _ in range(2):
        with alone_in(tmp_path):
            assert (tmp_path / LOCK).exists()
        assert list(tmp_path.iterdir()) == []


def test_an_error_frees_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), alone_in(tmp_path):
        raise ValueError("inside")
    with alone_in(tmp_path):
        pass


def test_another_thread_is_refused(tmp_path: Path) -> None:
    caught = list[BaseException]()

    def other() -> None:
        try:
            with alone_in(tmp_path):
                pass
        except DataError as error:
            caught.append(error)

    with alone_in(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert f"another run writes here, process {os.getpid()} on" in str(caught[0])


def test_another_process_is_refused_until_it_is_dead(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(DataError, match=rf"another run writes here, process {process.pid} on .*; wait for its end"),
            alone_in(tmp_path),
        ):
            pass
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / LOCK).exists()
    with alone_in(tmp_path):
        pass


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written to"), alone_in(tmp_path / "file"):
        pass


def test_a_lock_of_a_dead_process_is_taken_over_although_its_number_is_in_use_again(tmp_path: Path) -> None:
    with alone_in(tmp_path):
        pid, host, started = (tmp_path / LOCK).read_text(encoding="utf-8").splitlines()
    (tmp_path / LOCK).write_text(f"{pid}\n{host}\n{int(started) - 1}\n", encoding="utf-8")
    with alone_in(tmp_path):
        pass


def test_containers_with_the_same_host_name_are_told_apart(tmp_path: Path) -> None:
    with alone_in(tmp_path):
        _, host, started = (tmp_path / LOCK).read_text(encoding="utf-8").splitlines()
    (tmp_path / LOCK).write_text(f"2147483646\n{host}?pidns-f0000001\n{started}\n", encoding="utf-8")
    with pytest.raises(DataError, match="another run writes here"), alone_in(tmp_path):
        pass
