"""Options that several commands take, and the console that they print to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from qpass.cli.transforms import numbers, sides
from qpass.runtime.plain_data import printable

#: Paths and names contain brackets and colons that are not markup.
console = Console(markup=False, emoji=False)
DATA = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)


def note(text: str) -> None:
    """Writes a line to standard error, unless the command is quiet."""
    if not console.quiet:
        click.echo(printable(text), err=True)


def renamed(new: str) -> Callable[..., Any]:
    """Returns the callback of an option's old name, which says the new one."""

    def warn(_: click.Context, option: click.Parameter, value: Any) -> Any:
        if value is not None:
            note(f"warning: {option.opts[0]} is now {new}")
        return value

    return warn


def runtime_option(text: str) -> Callable[..., Any]:
    """Returns the option ``--runtime`` with its help text."""
    return click.option(
        "--runtime", type=click.Choice(["onnxruntime", "openvino"]), default="onnxruntime", show_default=True, help=text
    )


def file_options(file: str) -> Callable[..., Any]:
    """Returns what adds ``--target`` and ``--weight-type`` to a command that writes ``file``."""
    target = click.option(
        "--target",
        default="onnxruntime",
        show_default=True,
        help=f"Runtime to write {file} for: onnxruntime, onnxruntime-contrib (its own operators too), openvino or tensorrt.",
    )
    weight_type = click.option(
        "--weight-type",
        default="auto",
        show_default=True,
        help=f"Type of 8-bit weights and factors in {file}: int8, the fastest; uint8, exact on x86 without VNNI too; or auto,"
        " the fastest that is exact on this machine.",
    )
    return lambda command: target(weight_type(command))


batch_size_option = click.option("--batch-size", type=COUNT, default=16, show_default=True, help="Images in a batch.")


def image_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--crop`` and ``--resize`` to a command."""
    for option in (
        click.option("--crop", type=COUNT, help="Side of the centre crop in pixels  [default: the model's]"),
        click.option(
            "--resize",
            type=click.IntRange(min=0),
            help="Resize the shorter side to this first; 0 crops without resizing  [default: the model's]",
        ),
    ):
        command = option(command)
    return command


def preprocessing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--mean``, ``--std``, ``--image-size`` and ``--class-names`` to a command."""
    for option in (
        click.option(
            "--mean",
            callback=numbers,
            metavar="R,G,B",
            help="Mean of each channel, for pixels in 0 to 1; one number for gray images  [default: the model's]",
        ),
        click.option("--std", callback=numbers, metavar="R,G,B", help="Standard deviation of each channel, like --mean."),
        click.option(
            "--image-size",
            callback=sides,
            metavar="HEIGHTxWIDTH",
            help="Resize images to exactly this, without keeping their aspect ratio  [default: the model's]",
        ),
        click.option("--class-names", type=DATA, help="Text file with a class name in each line  [default: the model's]"),
    ):
        command = option(command)
    return command
