"""The command ``qpass report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from qpass.cli.compare import figures_table, write_page
from qpass.cli.options import DATA, console
from qpass.errors import ConfigError
from qpass.runtime.atomic_write import write_whole

if TYPE_CHECKING:
    from qpass.report import QuantReport


@click.command()
@click.argument("folder", type=DATA)
@click.argument("other", type=DATA, required=False)
@click.option("--output", type=DATA, help="Page to write when two folders are compared  [default: compare.html]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def report(folder: Path, other: Path | None, output: Path | None, as_json: bool) -> None:
    """Print the errors of each block and layer, and rewrite report.html.

    With two folders, compare them on one page instead: figures, settings that differ, and layers
    side by side. The page is compare.html in the current folder, or --output. 'qpass compare' does
    so in the terminal.
    """
    if other is not None:
        if as_json:
            raise ConfigError("--json with two folders", where="qpass report", hint="qpass compare prints it")
        _compare(folder, other, output or Path("compare.html"))
        return
    if output is not None:
        raise ConfigError("--output with one folder", where="qpass report", hint="its page is report.html in the folder")
    from qpass.cli.run_folder import REPORT, read_report

    data = read_report(folder)
    if as_json:
        click.echo(data.to_json())
        return
    page = data.to_html()
    console.print(_layer_table(data))
    console.print(str(data), highlight=False)
    write_whole(folder / REPORT, page)
    console.print(f"page: {folder / REPORT}", highlight=False)


def _compare(first: Path, second: Path, output: Path) -> None:
    from qpass.cli.run_folder import read_report

    names, reports = (str(first), str(second)), (read_report(first), read_report(second))
    write_page(names, reports, output)
    console.print(figures_table(names, reports))
    console.print(f"page: {output}", highlight=False)


def _layer_table(data: QuantReport) -> Table:
    table = Table("layer", "kind", "weight bits", "input bits", "SQNR dB", title=f"{data.model}, {data.recipe}")
    for row in data.layers:
        bits = "/".join("float" if b is None else str(b) for b in row.input_bits)
        weight = "" if row.kind == "matmul" else str(row.weight_bits or "float")
        table.add_row(row.label, row.kind, weight, bits, f"{row.sqnr_db:.1f}")
    return table
