"""Takes the models of other projects' tests the whole way: traced, quantized, exported, verified.

Run: python benchmarks/suites.py timm-tiny|timm-families|nncf [--models NAME ...]
Writes: docs/models.md and benchmarks/results/suites.json; other suites' rows are kept.
"""

from __future__ import annotations

import functools
import gc
import warnings
from collections.abc import Mapping

import click
import suite_models
from model_rows import Row, run
from models_page import RESULTS, Sweep, read, render, write

#: Headings of the page.
TITLES = {
    "timm-tiny": "Suite: timm's tiny models",
    "timm-families": "Suite: transformer families of timm's tests",
    "nncf": "Suite: NNCF's torch.fx models",
}


@click.command()
@click.argument("suite", type=click.Choice(list(suite_models.SUITES)))
@click.option("--models", multiple=True, help="Only these; rows of the others are kept  [default: all]")
@click.option("--dry-run", is_flag=True, help="Print the rows and write nothing")
def main(suite: str, models: tuple[str, ...], dry_run: bool) -> None:
    """Run one suite at w8a8."""
    warnings.simplefilter("ignore")
    known = {sweep.title: sweep for sweep in read(RESULTS / "suites.json")}
    title, (_, members) = TITLES[suite], suite_models.SUITES[suite]
    rows = {row.model: row for row in known[title].rows} if title in known else {}
    for name in members:
        if not models or name in models:
            row = rows[name] = run(suite, name, functools.partial(suite_models.create, suite, name), "w8a8")
            decibels = "" if row.decibels is None else f"{row.decibels:.1f} dB "
            verdict = "verified" if row.verified else "FAILED"
            click.echo(f"{name:<40} {verdict} {decibels}{row.counts} {row.seconds:.0f} s {row.error}")
            if not dry_run:  # after each row: a long run that is cut short keeps what it found
                _write(known, suite, rows)
            gc.collect()


def _write(known: dict[str, Sweep], suite: str, rows: Mapping[str, Row]) -> None:
    """Writes the suite's rows and the page."""
    title, (about, members) = TITLES[suite], suite_models.SUITES[suite]
    found, missing = [rows[name] for name in members if name in rows], [name for name in members if name not in rows]
    known[title] = Sweep(title, f"python benchmarks/suites.py {suite}", about, found, missing)
    sweeps = [known[name] for name in TITLES.values() if name in known]
    write(RESULTS / "suites.json", sweeps)
    render([*read(RESULTS / "models.json"), *sweeps])


if __name__ == "__main__":
    main()
