"""What every command takes: ``--quiet`` and ``--log-level``."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import click

from qpass.cli.options import console
from qpass.progress import no_progress

LEVELS = ("debug", "info", "warning", "error")


def add_output_options(command: click.Command) -> None:
    """Adds the options to a command."""
    command.params += [
        click.Option(
            ["--quiet"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_be_quiet,
            help="Print errors only, and with --json the JSON.",
        ),
        click.Option(
            ["--log-level"],
            type=click.Choice(LEVELS),
            expose_value=False,
            callback=_log,
            help="Write a log to standard error, from this level on.",
        ),
    ]


def _be_quiet(context: click.Context, _: click.Parameter, quiet: bool) -> None:
    if quiet:
        context.with_resource(no_progress())
        context.with_resource(warnings.catch_warnings())
        warnings.showwarning = lambda *_, **__: None
        console.quiet = True
        context.call_on_close(_be_loud)


def _be_loud() -> None:
    console.quiet = False


def _log(context: click.Context, _: click.Parameter, level: str | None) -> None:
    if level is None:
        return
    logger, handler = logging.getLogger("qpass"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    before = logger.level

    def stop(*_: Any) -> None:
        logger.removeHandler(handler)
        logger.setLevel(before)

    logger.addHandler(handler)
    logger.setLevel(level.upper())
    context.call_on_close(stop)
