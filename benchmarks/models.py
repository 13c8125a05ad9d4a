"""Quantizes, exports and verifies models of timm, transformers and torchvision, random weights.

Run: python benchmarks/models.py [--models NAME ...] [--config w8a8]
Writes: docs/models.md and benchmarks/results/models.json (at other widths than w8a8:
models_<config>.md and .json in results).
"""

from __future__ import annotations

import functools
import gc
import warnings

import click
import model_zoo
import transformers
from model_rows import run
from models_page import PAGE, RESULTS, Sweep, read, render, write


@click.command()
@click.option("--models", multiple=True, help="Only these; rows of the others are kept  [default: all]")
@click.option("--config", default="w8a8", show_default=True)
def main(models: tuple[str, ...], config: str) -> None:
    """Run the sweep."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    usual = config == "w8a8"
    data = RESULTS / ("models.json" if usual else f"models_{config}.json")
    known = read(data)
    rows = {row.model: row for sweep in known for row in sweep.rows}
    every = [(library, name) for library, (names, _) in model_zoo.ZOO.items() for name in names]
    for library, name in every:
        if not models or name in models:
            row = rows[name] = run(library, name, functools.partial(model_zoo.create, library, name), config)
            click.echo(f"{name:<44} {'verified' if row.verified else 'FAILED'} {row.counts} {row.seconds:.0f} s {row.error}")
            gc.collect()
    sweep = Sweep(
        title="Models of timm, transformers and torchvision",
        command="python benchmarks/models.py" + ("" if usual else f" --config {config}"),
        about=f"{config}, small configurations.",
        rows=[rows[name] for _, name in every if name in rows],
    )
    write(data, [sweep])
    render([sweep, *(read(RESULTS / "suites.json") if usual else [])], PAGE if usual else RESULTS / f"models_{config}.md")


if __name__ == "__main__":
    main()
