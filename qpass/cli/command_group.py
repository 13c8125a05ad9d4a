"""A command group that prints errors and warnings as one line each; bugs keep their traceback."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

import click
from click.exceptions import NoArgsIsHelpError

from qpass.errors import QPassError
from qpass.runtime.plain_data import printable

#: Key of the arguments of the command line in ``click.Context.meta``.
ARGUMENTS = "qpass.arguments"


class OneLineGroup(click.Group):
    """Prints errors as ``error: ...`` and warnings as ``warning: ...``."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> click.Context:
        """See ``click.Command.make_context``."""
        given = tuple(args)  # click takes them out of the list
        context = super().make_context(info_name, args, *rest, **extra)
        context.meta[ARGUMENTS] = given
        return context

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        """See ``click.Command.main``."""
        run: Any = super().main
        if not standalone_mode:
            return run(*args, standalone_mode=False, **kwargs)
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show
                code = run(*args, standalone_mode=False, **kwargs)
            sys.stdout.flush()
        except BrokenPipeError:  # `qpass ... | head`: discard the remaining output, also when Python exits
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 1
        except NoArgsIsHelpError as error:
            click.echo(error.ctx.get_help() if error.ctx is not None else "", err=True)
            code = error.exit_code
        except click.Abort:
            click.echo("aborted", err=True)
            code = 1
        except (QPassError, click.ClickException, OSError) as error:
            click.echo(f"error: {_one_line(error)}", err=True)
            code = 2
        sys.exit(code if isinstance(code, int) else 0)


def _show(message: Warning | str, *_: Any, **__: Any) -> None:
    """Prints a warning as one line, without the line of code that Python adds."""
    click.echo(f"warning: {printable(' '.join(str(message).split()))}", err=True)


def _one_line(error: Exception) -> str:
    if isinstance(error, click.ClickException):
        text = error.format_message()
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error) or type(error).__name__
    return printable(" ".join(text.split()))
