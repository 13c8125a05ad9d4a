"""The command ``qpass presets``."""

from __future__ import annotations

import json
from dataclasses import asdict

import click
from rich.table import Table

from qpass.cli.options import console
from qpass.config.preset_table import preset_rows


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def presets(as_json: bool) -> None:
    """List the presets of --config; each exists with any bit widths from 2 to 8 (mixed: means of 3 to 7)."""
    rows = list(preset_rows())
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=1))
        return
    table = Table("preset", "weights", "activations", "Softmax output", "learns", "what it is")
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(row.name, row.weights, row.activations, row.softmax, "yes" if row.learns else "", row.about)
    console.print(table)
