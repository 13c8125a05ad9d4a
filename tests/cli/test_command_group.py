from __future__ import annotations

import subprocess
import sys
import warnings

import click
import pytest

from qpass.cli.command_group import OneLineGroup
from qpass.errors import DataError


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("arguments", ["--help", "quantize --help"])
def test_a_reader_that_stops_early_makes_no_noise(arguments: str) -> None:
    command = f"{sys.executable} -W ignore -m qpass {arguments} | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.filterwarnings("always")
def test_a_warning_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    @click.group(cls=OneLineGroup)
    def group() -> None:
        pass

    @group.command()
    def warn() -> None:
        warnings.warn("the batch is fixed,\n  at 3 rows", stacklevel=1)

    shown = warnings.showwarning
    with pytest.raises(SystemExit) as caught:
        group.main(["warn"])
    assert caught.value.code == 0
    assert capfd.readouterr().err == "warning: the batch is fixed, at 3 rows\n"
    assert warnings.showwarning is shown


def test_an_error_does_not_move_the_cursor(capfd: pytest.CaptureFixture[str]) -> None:
    @click.group(cls=OneLineGroup)
    def group() -> None:
        pass

    @group.command()
    def fail() -> None:
        raise DataError("is no image", where="a\x1b]0;title\x07.png")

    with pytest.raises(SystemExit) as caught:
        group.main(["fail"])
    assert caught.value.code == 2
    assert capfd.readouterr().err == "error: a\\x1b]0;title\\x07.png: is no image\n"
