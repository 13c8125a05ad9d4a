"""What each recipe keeps of each network, through onnxruntime on the exported and verified file.

Run: python benchmarks/accuracy.py [--network NAME ...] [--table closed-form|ablation|focus]
    [--recipes closed-form|learned|full|residual|NAME ...] [--threads 1] [--device cpu]
    --list says which rows are missing or stale; --stale measures the stale ones alone; --pages only
    writes the pages; --merge FOLDER takes the rows that another machine measured.
Writes: benchmarks/results/rows/NETWORK.jsonl after every row, and then the pages. The same command
in several processes at once shares the rows out among them. A row that is there is not measured
again (--fresh measures it). Recipes that learn save their blocks in --checkpoint-dir and resume
after the last one. QPASS_COMMIT names the commit of a copy without git's data.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import accuracy_pages
import click
import learned_blocks
import torch
from networks import NETWORKS
from provenance import Provenance, sources
from recipes import CLOSED_FORM, FLOAT, FULL, LEARNED, RESIDUAL, TABLES, Recipe, main_table
from row_runs import Pending, pending, run
from stored_rows import Row, RowStore
from task import Network, Task

import qpass
from qpass.backends.onnx_qdq import export_float
from qpass.backends.onnxruntime import OrtModule
from qpass.graph.capture.trace import trace
from qpass.report.bits import bit_widths

RESULTS = Path(__file__).parent / "results"
_GROUPS = {"closed-form": (FLOAT, *CLOSED_FORM), "learned": LEARNED, "full": FULL, "residual": RESIDUAL}


def measure(network: Network, task: Task, recipe: Recipe, seed: int, threads: int, kept: Path, device: str = "cpu") -> Row:
    """Quantizes on a device, exports, verifies and evaluates one recipe."""
    if recipe.settings is None:
        return measure_float(network, task, threads)
    count = recipe.images or task.counts[recipe.learns]
    calibration, drawn = task.calibration(count, seed)
    start = time.perf_counter()
    qmodel = qpass.quantize_graph(
        task.model, calibration, recipe.config, seed=seed, checkpoint_dir=kept, device=device, progress=False
    )
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        path = qpass.export_onnx(qmodel, Path(folder) / "model.onnx")
        verified = qpass.verify_onnx(qmodel, path, calibration[0][: task.verified], strict=False)
        found = task.score(qpass.onnxruntime_model(qmodel, path, threads=threads))
        size = path.stat().st_size / 1e6
    if not verified.passed:
        click.echo(str(verified))
    in_torch = {network.score: _mean(task.score(qmodel))} if task.scored_in_torch else {}
    report = qpass.quantization_report(qmodel)
    bits = next(found for found in bit_widths(report) if found.kind == "activation")
    if (learned := report.reconstruction) and network.title == "DeiT-T" and seed == 0 and recipe.name in LEARNED:
        learned_blocks.write(RESULTS, recipe.name, learned)
    return Row(
        recipe=recipe.name,
        seed=seed,
        config=recipe.digest,
        scores={network.score: _mean(found)},
        in_torch=in_torch,
        samples={network.score: found},
        verified=verified.passed,
        file_mb=size,
        activation_bits=round(bits.mean, 3),
        wider_activations=f"{len(bits.wider)} of {len(bits.rows)}",
        quantize_seconds=round(seconds, 1),
        total_seconds=round(time.perf_counter() - start, 1),
        schedule=recipe.schedule,
        steps=recipe.steps,
        drawn=drawn,
        provenance=_provenance(network, recipe),
    )


def measure_float(network: Network, task: Task, threads: int) -> Row:
    """Exports and evaluates the float network."""
    start = time.perf_counter()
    batch = torch.stack([task.pool.load(i) for i in range(min(task.batch, len(task.pool)))])
    graph = trace(task.model, (batch,))
    with tempfile.TemporaryDirectory() as folder:
        path = export_float(graph, Path(folder) / "float.onnx")
        scores = task.score(OrtModule(graph, path, threads=threads))
        size = path.stat().st_size / 1e6
    recipe = Recipe(FLOAT)
    return Row(
        recipe=FLOAT,
        seed=0,
        config=recipe.digest,
        scores={network.score: _mean(scores)},
        samples={network.score: scores},
        verified=True,
        file_mb=size,
        total_seconds=round(time.perf_counter() - start, 1),
        provenance=_provenance(network, recipe),
    )


def _provenance(network: Network, recipe: Recipe) -> Provenance:
    return Provenance.here(RowStore("sources").keep_sources(sources(recipe.learns, network.modules)))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def wanted_rows(network: str, recipes: tuple[str, ...], table: str | None, seeds: tuple[int, ...]) -> list[tuple[Recipe, int]]:
    """Returns the rows of a table that the command asks for."""
    rows = main_table(network) if table is None else TABLES[table].make()
    names = {name for group in recipes for name in _GROUPS.get(group, (group,))} or set(rows)
    unknown = names - rows.keys() - {name for group in _GROUPS.values() for name in group}
    if unknown:
        raise click.BadParameter(f"no row is called {sorted(unknown)[0]!r}; there are {', '.join(rows)}")
    return [
        (recipe, seed)
        for name, recipe in rows.items()
        if name in names
        for seed in recipe.seeds
        if seed in (seeds or recipe.seeds)
    ]


@click.command()
@click.option("--network", "networks", multiple=True, type=click.Choice(["all", *NETWORKS]), help="[default: all]")
@click.option("--recipes", multiple=True, help="closed-form, learned, full, residual, or the name of a row  [default: all]")
@click.option("--table", type=click.Choice(list(TABLES)), help="A table of parts, in place of the main one.")
@click.option("--seed", "seeds", multiple=True, type=int, help="One of the table's seeds; may be given again  [default: all]")
@click.option("--list", "listed", is_flag=True, help="List missing and stale rows without measuring them.")
@click.option("--stale", "only_stale", is_flag=True, help="Measure only rows whose code or recipe has changed.")
@click.option("--fresh", is_flag=True, help="Measure existing rows again.")
@click.option("--pages", is_flag=True, help="Only write the pages.")
@click.option(
    "--merge", "other", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Merge the rows from this folder."
)
@click.option("--threads", default=1, show_default=True, help="Threads of torch and of onnxruntime.")
@click.option("--device", default="cpu", show_default=True, help="Where to quantize; files are evaluated on the CPU.")
@click.option(
    "--checkpoint-dir", type=click.Path(path_type=Path), help="Keep learned blocks here  [default: a temporary folder]"
)
def main(
    networks: tuple[str, ...], recipes: tuple[str, ...], table: str | None, seeds: tuple[int, ...], listed: bool, only_stale: bool,
    fresh: bool, pages: bool, other: Path | None, threads: int, device: str, checkpoint_dir: Path | None,
) -> None:  # fmt: skip
    """Measure the rows and write the pages."""
    torch.set_num_threads(threads)
    chosen = (
        [TABLES[table].network]
        if table
        else [name for name in NETWORKS if name in networks or not networks or "all" in networks]
    )
    if other is not None:
        for name in NETWORKS:
            for recipe, seed in RowStore(name).merge(other):
                click.echo(f"taken: {name}, {recipe}, seed {seed}")
    rows = [
        row
        for name in chosen
        for row in pending(name, wanted_rows(name, recipes, table, seeds), only_stale=only_stale, fresh=fresh)
    ]
    if listed:
        click.echo("\n".join(map(str, rows)))
        return
    loaded: dict[str, Task] = {}
    try:
        if not pages and other is None:
            with tempfile.TemporaryDirectory() as folder:
                run(rows, lambda row: measure_pending(row, loaded, threads, device, checkpoint_dir or Path(folder)))
    finally:
        accuracy_pages.write(RESULTS)


def measure_pending(row: Pending, loaded: dict[str, Task], threads: int, device: str, kept: Path) -> Row:
    """Measures a row; one network is loaded at a time."""
    if row.table not in loaded:
        loaded.clear()
        loaded[row.table] = NETWORKS[row.table].load()
    blocks = kept / f"{row.table}-{row.recipe.name}-{row.seed}".replace(" ", "-").replace(":", "")
    return measure(NETWORKS[row.table], loaded[row.table], row.recipe, row.seed, threads, blocks, device)


if __name__ == "__main__":
    main()
