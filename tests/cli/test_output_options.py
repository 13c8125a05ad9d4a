"""``--quiet`` leaves errors and JSON; ``--log-level`` writes what the library logs."""

from __future__ import annotations

import json
import logging
import warnings

import click
import pytest
from click.testing import CliRunner, Result

from qpass.cli import main
from qpass.cli.command_group import OneLineGroup
from qpass.cli.options import console, note
from qpass.cli.output_options import add_output_options
from qpass.errors import DataError
from qpass.progress import say


@click.group(cls=OneLineGroup)
def group() -> None:
    pass


@group.command()
@click.option("--fail", is_flag=True)
@click.option("--json", "as_json", is_flag=True)
def work(fail: bool, as_json: bool) -> None:
    note("a note")
    say("a line of progress")
    warnings.warn("a warning", stacklevel=1)
    logging.getLogger("qpass.somewhere").info("a record")
    if fail:
        raise DataError("is wrong", where="x")
    if as_json:
        click.echo("{}")
    else:
        console.print("a result")


add_output_options(work)


@pytest.fixture(autouse=True)
def _warnings_are_shown() -> None:
    warnings.simplefilter("always")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(group, ["work", *arguments])


def test_loud() -> None:
    result = run()
    assert result.stdout == "a result\n"
    assert result.stderr.splitlines() == ["a note", "a line of progress", "warning: a warning"]


def test_quiet_leaves_errors_and_json() -> None:
    assert run("--quiet").output == ""
    result = run("--json", "--quiet")
    assert (result.stdout, result.stderr) == ("{}\n", "")
    result = run("--quiet", "--fail")
    assert (result.exit_code, result.output) == (2, "error: x: is wrong\n")
    assert run().stdout == "a result\n", "the next command is not quiet"


def test_a_log() -> None:
    result = run("--log-level", "info")
    assert "INFO qpass.somewhere: a record" in result.stderr
    assert "a record" not in run("--log-level", "warning").output
    logger = logging.getLogger("qpass")
    assert logger.level == logging.NOTSET
    assert [type(handler) for handler in logger.handlers] == [logging.NullHandler]


def test_every_command_has_them_and_json_where_it_gives_a_result() -> None:
    for name, command in main.commands.items():
        options = {option for parameter in command.params for option in parameter.opts}
        assert {"--quiet", "--log-level", "--json"} <= options, name
    assert json.loads(CliRunner().invoke(main, ["presets", "--json", "--quiet"]).stdout)
