"""Measures the published methods at full length on a GPU, in runs with a time limit.

Run: python benchmarks/gpu.py [--minutes 9] [--state gpu-state] [--device cuda]
Does: runs the tests that need a GPU once, then measures the rows of
    ``benchmarks/accuracy.py --recipes full`` until the time limit. The next run with the same state
    folder resumes after the last learned block. To continue elsewhere, copy that folder and
    benchmarks/results/rows.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

_REPOSITORY = Path(__file__).parents[1]
_TESTS = ("tests/contracts/test_gpu.py",)
#: Reserved for writing rows and pages.
_SPARE_SECONDS = 20.0


def run_for(command: Sequence[str], seconds: float) -> int | None:
    """Runs a command in the repository; returns its exit code, or None if it was stopped."""
    try:
        return subprocess.run(command, cwd=_REPOSITORY, timeout=max(seconds, 1.0), check=False).returncode
    except subprocess.TimeoutExpired:
        return None


def test_command() -> list[str]:
    """Returns the command for the tests that need a GPU."""
    return [sys.executable, "-m", "pytest", "-n", "0", "--slow=all", *_TESTS]


def rows_command(state: Path, device: str, recipes: Sequence[str]) -> list[str]:
    """Returns the command that measures the rows."""
    names = [word for recipe in recipes for word in ("--recipes", recipe)]
    where = ["--device", device, "--checkpoint-dir", str(state / "blocks")]
    return [sys.executable, str(_REPOSITORY / "benchmarks" / "accuracy.py"), "--network", "deit-tiny", *names, *where]


@click.command()
@click.option("--minutes", default=9.0, show_default=True, help="Time limit.")
@click.option("--state", default="gpu-state", show_default=True, type=click.Path(path_type=Path), help="Folder for progress.")
@click.option("--device", default="cuda", show_default=True, help="Where to learn.")
@click.option("--recipes", multiple=True, default=["full"], show_default=True, help="As for accuracy.py.")
def main(minutes: float, state: Path, device: str, recipes: tuple[str, ...]) -> None:
    """Run the tests that need a GPU and measure rows until the time limit."""
    end = time.monotonic() + 60 * minutes - _SPARE_SECONDS
    state = state.resolve()
    state.mkdir(parents=True, exist_ok=True)
    tested = state / "tested"
    if not tested.exists() and device != "cpu":
        code = run_for(test_command(), end - time.monotonic())
        if code is None:
            raise click.ClickException("the tests did not end in time: give --minutes more")
        if code:
            raise click.ClickException("the tests failed on this GPU: rows measured on it would mean nothing")
        tested.touch()
    code = run_for(rows_command(state, device, recipes), end - time.monotonic())
    if code is None:
        blocks = len(list((state / "blocks").rglob("*.safetensors")))
        click.echo(f"stopped after {minutes:g} minutes with {blocks} blocks learned: run the same command again")
    elif code:
        raise click.ClickException("not all rows could be measured")
    else:
        click.echo("every row is measured")


if __name__ == "__main__":
    main()
