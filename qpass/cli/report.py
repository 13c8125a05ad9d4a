"""The command ``qpass report``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.table import Table

from qpass.cli.options import DATA, console
from qpass.errors import DataError
from qpass.runtime.atomic_write import write_whole


@click.command()
@click.argument("folder", type=DATA)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def report(folder: Path, as_json: bool) -> None:
    """Print the errors of each block and layer, and rewrite report.html."""
    from qpass.cli.run_folder import FIGURES, REPORT, file_in
    from qpass.report import QuantReport

    path = file_in(folder, FIGURES)
    try:
        data = QuantReport.from_json(path.read_text(encoding="utf-8"))
        table, summary, page = _layer_table(data), str(data), data.to_html()
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"cannot be read: {error}", where=str(path)) from error
    if as_json:
        click.echo(data.to_json())
        return
    console.print(table)
    console.print(summary, highlight=False)
    write_whole(folder / REPORT, page)
    console.print(f"page: {folder / REPORT}", highlight=False)


def _layer_table(data: Any) -> Table:
    table = Table("layer", "kind", "weight bits", "input bits", "SQNR dB", title=f"{data.model}, {data.recipe}")
    for row in data.layers:
        bits = "/".join("float" if b is None else str(b) for b in row.input_bits)
        weight = "" if row.kind == "matmul" else str(row.weight_bits or "float")
        table.add_row(row.path, row.kind, weight, bits, f"{row.sqnr_db:.1f}")
    return table
