"""Measures rows of the accuracy tables again, drawn at random, and compares.

Run: python benchmarks/recheck.py [--rows 3] [--seed 0] [--network deit-tiny ...]
On the machine, versions and threads of a row every score must be the same. Elsewhere the difference
must be less than two errors. Exit code 1 if a row is not what the table says.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import click
import torch
from accuracy import measure_pending
from networks import NETWORKS
from recipes import Recipe, all_recipes
from row_runs import Pending
from stored_rows import Row, RowStore
from table_text import difference
from task import Task


def candidates(network: str) -> list[tuple[Row, Recipe]]:
    """Returns the rows of a network that are not stale."""
    store = RowStore(network)
    history, known = store.history(), {recipe.name: recipe for recipe in all_recipes(network)}
    rows = [(row, known[row.recipe]) for row in store.read().values() if row.recipe in known]
    return [(row, recipe) for row, recipe in rows if not history.why_stale(row, recipe.digest)]


def verdict(before: Row, after: Row, score: str) -> tuple[bool, str]:
    """Returns whether a row holds, and what was found."""
    one, two = before.provenance, after.provenance
    assert one is not None
    assert two is not None
    same_place = (one.machine, one.versions, one.threads) == (two.machine, two.versions, two.threads)
    differing = sum(abs(a - b) > 1e-3 for a, b in zip(before.samples[score], after.samples[score], strict=True))
    found = difference([before], [after], score)
    assert found is not None
    said = f"{score} {before.scores[score]:.3f} then, {after.scores[score]:.3f} now, {differing} of {len(after.samples[score])} samples differ"
    if same_place:
        return differing == 0, f"{said}; the same machine and versions"
    return not found.differs, f"{said}, {found.value:.2f} ± {found.error:.2f} below; another machine or other versions"


@click.command()
@click.option("--rows", "count", default=3, show_default=True, help="Rows to draw.")
@click.option("--seed", default=0, show_default=True, help="Draws them.")
@click.option("--network", "networks", multiple=True, type=click.Choice(list(NETWORKS)), help="[default: all]")
@click.option("--threads", default=1, show_default=True, help="Of torch and onnxruntime.")
def main(count: int, seed: int, networks: tuple[str, ...], threads: int) -> None:
    """Measure random rows again and compare."""
    torch.set_num_threads(threads)
    found = [(name, *pair) for name in networks or NETWORKS for pair in candidates(name)]
    if not found:
        raise click.ClickException("no row is up to date")
    loaded: dict[str, Task] = {}
    held = []
    for name, row, recipe in random.Random(seed).sample(found, min(count, len(found))):
        with tempfile.TemporaryDirectory() as folder:
            again = measure_pending(Pending(name, recipe, row.seed, row, "checked"), loaded, threads, Path(folder))
        holds, said = verdict(row, again, NETWORKS[name].score)
        held.append(holds)
        click.echo(f"{'holds' if holds else 'DIFFERS'}: {name}, {row.recipe}, seed {row.seed}: {said}")
    sys.exit(not all(held))


if __name__ == "__main__":
    main()
