"""The script for GPUs stops at its time limit and says how to resume."""

from __future__ import annotations

import sys
from pathlib import Path

import gpu
import pytest
from click.testing import CliRunner

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def command_that(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def run(state: Path, *options: str) -> str:
    return CliRunner().invoke(gpu.main, ["--state", str(state), "--minutes", "0.35", *options]).output


def test_rows_are_stopped_in_time_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "blocks" / "one").mkdir(parents=True)
    (tmp_path / "blocks" / "one" / "blocks.0.safetensors").touch()
    monkeypatch.setattr(gpu, "rows_command", lambda *_: SLEEP)
    assert "stopped after 0.35 minutes with 1 blocks learned: run the same command again" in run(tmp_path, "--device", "cpu")
    monkeypatch.setattr(gpu, "rows_command", lambda *_: command_that("pass"))
    assert "every row is measured" in run(tmp_path, "--device", "cpu")


def test_the_tests_run_once_and_a_failure_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "rows_command", lambda *_: command_that("pass"))
    monkeypatch.setattr(gpu, "test_command", lambda: command_that("raise SystemExit(1)"))
    assert "the tests failed on this GPU" in run(tmp_path)
    monkeypatch.setattr(gpu, "test_command", lambda: command_that("pass"))
    assert "every row is measured" in run(tmp_path)
    monkeypatch.setattr(gpu, "test_command", lambda: command_that("raise SystemExit(1)"))
    assert "every row is measured" in run(tmp_path)


def test_the_command_measures_rows_of_full_length(tmp_path: Path) -> None:
    command = gpu.rows_command(tmp_path, "cuda", ["full"])
    assert command[2:] == [
        "--network", "deit-tiny", "--recipes", "full", "--device", "cuda", "--checkpoint-dir", str(tmp_path / "blocks"),
    ]  # fmt: skip
