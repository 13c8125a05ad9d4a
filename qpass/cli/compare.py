"""The command ``qpass compare``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Column, Table

from qpass.cli.options import COUNT, DATA, console, note
from qpass.errors import ConfigError
from qpass.runtime.atomic_write import write_whole
from qpass.runtime.plain_data import printable

if TYPE_CHECKING:
    from qpass.backends.onnxruntime import LatencyReport
    from qpass.report import QuantReport
    from qpass.report.tensor_pairs import TensorPair

Reports = tuple["QuantReport", "QuantReport"]


@click.command()
@click.argument("first", type=DATA)
@click.argument("second", type=DATA)
@click.option("--top", type=COUNT, default=10, show_default=True, help="Tensors to list.")
@click.option("--speed", is_flag=True, help="Time both files against each other, in alternation: one image, one thread.")
@click.option("--output", type=DATA, help="Also write a page that compares every layer.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(first: Path, second: Path, top: int, speed: bool, output: Path | None, as_json: bool) -> None:
    """Compare two folders: accuracy kept, size, speed, and the tensors that differ most.

    FIRST and SECOND are folders from 'qpass quantize'. Accuracy is agreement with float on
    calibration images, as in the report. 'qpass evaluate' measures it on others.
    """
    from qpass.cli.run_folder import read_report
    from qpass.report.compare import differing_settings, unfair
    from qpass.report.summary import summary
    from qpass.report.tensor_pairs import tensor_pairs

    names, reports = (str(first), str(second)), (read_report(first), read_report(second))
    timed = _timed(first, second) if speed else None
    pairs = [pair for pair in tensor_pairs(*reports) if pair.gain][:top]
    doubts = list(unfair(*reports))
    if as_json:
        settings = [
            {"setting": name, "values": values} for name, *values in differing_settings(reports[0].config, reports[1].config)
        ]
        found = {
            "runs": [{"folder": name, **summary(report)} for name, report in zip(names, reports, strict=True)],
            "speed": None if timed is None else timed.to_dict(),
            "settings": settings,
            "tensors": [pair.to_dict() for pair in pairs],
            "warnings": doubts,
        }
        click.echo(json.dumps(found, indent=1))
    else:
        console.print(figures_table(names, reports))
        if timed is not None:
            ratio = timed.rows[-1].speedup
            console.print(
                printable(f"{second} takes {1 / ratio:.2f} times as long as {first}"), highlight=False, soft_wrap=True
            )
        if pairs:
            console.print(_tensor_table(names, pairs))
        for doubt in doubts:
            note(f"warning: {doubt}")
    if output is not None:
        write_page(names, reports, output)
        if not as_json:
            console.print(f"page: {output}", highlight=False, soft_wrap=True)


def figures_table(names: tuple[str, str], reports: Reports) -> Table:
    """Returns the figures of two reports side by side."""
    from qpass.report.compare import figures

    table = _folding("", *map(printable, names))
    for row in figures(*reports):
        table.add_row(*map(printable, row))
    return table


def write_page(names: tuple[str, str], reports: Reports, output: Path) -> None:
    """Writes the page that compares two reports layer by layer."""
    from qpass.report.compare import compare_page

    write_whole(output, compare_page(reports, names))


def _folding(*titles: str) -> Table:
    """Returns a table that folds long paths: a truncated one might name another folder."""
    return Table(*(Column(title, overflow="fold") for title in titles))


def _tensor_table(names: tuple[str, str], pairs: list[TensorPair]) -> Table:
    table = _folding("tensor", *(f"bits, {printable(name)}" for name in names), *(f"dB, {printable(name)}" for name in names))
    for pair in pairs:
        bits = ["float" if row is None else str(row.bits) for row in pair.rows]
        decibels = ["" if row is None else f"{row.sqnr_db:.1f}" for row in pair.rows]
        table.add_row(printable(pair.label), *bits, *decibels)
    table.title = f"The {len(pairs)} tensors whose rounding errors differ most"
    return table


def _timed(first: Path, second: Path) -> LatencyReport:
    """Times the files, the first as the baseline.

    Raises:
        ConfigError: If both are the same folder.
    """
    from qpass.backends.onnxruntime import benchmark
    from qpass.cli.run_folder import MODEL, file_in

    if first.resolve() == second.resolve():
        raise ConfigError("is compared with itself", where=str(first), expected="two folders")
    files = {str(folder): file_in(folder, MODEL) for folder in (first, second)}
    return benchmark(files, baseline=str(first))
