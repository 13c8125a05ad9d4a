"""Top-1 of a network at each recipe, in torch and through onnxruntime, on real images.

Run: python benchmarks/accuracy.py [--table recipes|mnist|modelnet40|closed-form|ablation]
    [--rows w8a8 --rows w4a4 ...] [--seed 1]
Writes: benchmarks/results/accuracy.md and .csv (with learned_blocks.md and methods.md),
accuracy_mnist, accuracy_modelnet40, closed_form or ablation; finished rows are kept and not run
again (--fresh drops them). Recipes that learn keep their blocks in --checkpoint-dir and go on
behind the last one.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import learned_blocks
import methods
import torch
from accuracy_tasks import TASKS, Task
from result_rows import read_rows, write_rows

import qpass
from qpass.backends.onnx_qdq import export_float
from qpass.backends.onnxruntime import OrtSession
from qpass.backends.onnxruntime.latency import benchmark, describe_machine
from qpass.config import SOFTMAX_PERCENTILES, QuantConfig
from qpass.config.options import LearningOrder
from qpass.config.presets import SCALE_LEARNING_RATE
from qpass.evaluation.top1 import Accuracy, evaluate_top1
from qpass.graph.capture.trace import trace

RESULTS = Path(__file__).parent / "results"
#: Calibration images of recipes that learn nothing, of those that do, and of the ablation.
CALIBRATION_IMAGES, LEARNING_IMAGES, ABLATION_IMAGES = 128, 1000, 256
WIDTHS = ("w8a8", "w6a6", "w4a8", "w4a4", "w3a3")


#: Switches off what the recipes ``wXaY`` do beyond folding and the search of ranges.
_UNTURNED = {"rotate_heads": False, "rotate_residual": False}
_PLAIN = {**_UNTURNED, "weight_rounding": "nearest", "compensate_activations": False, "budget": None}


def naive(width: str) -> dict[str, Any]:
    """Returns round to nearest between the least and the greatest value: the simplest recipe."""
    plain = {"bits": int(width[-1]), "percentiles": (1.0,), "criterion": "tensor"}
    changes = {
        "activation": plain,
        "post_softmax": plain,
        "network_input": plain | {"bits": 8},
        "weight": {"percentiles": (1.0,)},
    }
    return {"preset": width, "name": f"naive-{width}", "fold_layer_norm": None, "calibrate_on": "float", **_PLAIN, **changes}


def published() -> dict[str, Any]:
    """Returns the methods that are compared on equal terms; 8-bit rows for those that learn nothing."""
    learned = [f"{family}-{width}" for family in ("ias-vit", "dopq-vit", "aiqvit") for width in WIDTHS[1:]]
    return {
        **{f"naive-{width}": naive(width) for width in WIDTHS},
        **{f"repq-vit-{width}": f"repq-vit-{width}" for width in WIDTHS},
        **{name: name for name in learned},
    }


#: Ours: uniform everywhere, AIQViT with learned scales, and the residual branch.
OURS: dict[str, Any] = {
    **{name: name for name in (*WIDTHS, *(f"aiqvit-lsq-{width}" for width in WIDTHS[1:]), "w3a8", "w2a8")},
    **{f"{width}, {width[-1]} bits everywhere": {"preset": width, "budget": None} for width in ("w6a6", "w4a4", "w3a3")},
    **{f"{width}, polish quick": {"preset": width, "polish": "quick"} for width in ("w4a8", "w4a4", "w3a3")},
    **{
        f"{name}, residual rank {rank}": {
            "preset": name,
            "weight_rounding": "nearest",
            "weight": {"residual_rank": rank},
            "rotate_residual": False,
        }
        for name in ("w3a8", "w2a8", "w3a3")
        for rank in (16, 32)
    },
}
RECIPES = OURS | published()


@dataclass(frozen=True)
class Table:
    """Rows to measure by name, and how the page is headed."""

    file: str
    title: str
    rows: Mapping[str, Any]
    learning_images: int
    task: str = "deit-tiny"
    note: str = ""


def ablation() -> dict[str, Any]:
    """Returns the parts of AIQViT one by one, and the two controls that the paper lacks, at two widths.

    All learn for the same number of gradient steps, a search step counting as two.
    """
    search, steps = 20, 80
    uniform = {"post_softmax": {"quantizer": "uniform", "percentiles": SOFTMAX_PERCENTILES}}
    min_max = {"post_softmax": {"quantizer": "uniform", "percentiles": (1.0,), "criterion": "tensor"}}
    learned = {"search_steps": search, "steps": steps, "curriculum_interval": 20}
    one_phase = {**learned, "steps": steps + 2 * search}
    rows: dict[str, Any] = {}
    for bits in ("w4a4", "w3a3"):
        preset = {"preset": f"aiqvit-{bits}"}
        plain = {**preset, **min_max}
        searched = {**preset, **uniform}
        without_curriculum = {**learned, "curriculum": False}
        rows |= {
            f"{bits} none, min-max Softmax": {**plain, "reconstruction": None},
            f"{bits} DFQ": {**preset, "reconstruction": {**one_phase, "weights": "fixed", "curriculum": False}},
            f"{bits} AILoC, min-max Softmax": {**plain, "reconstruction": without_curriculum},
            f"{bits} AILoC + DFQ": {**preset, "reconstruction": without_curriculum},
            f"{bits} AILoC + DFQ + CL": {**preset, "reconstruction": learned},
            f"{bits} none": {**searched, "reconstruction": None},
            f"{bits} AILoC": {**searched, "reconstruction": without_curriculum},
            f"{bits} AILoC + CL": {**searched, "reconstruction": learned},
            f"{bits} AILoC + DFQ + CL, paper order": {**preset, "reconstruction": {**learned, "order": "paper"}},
            f"{bits} rank 100 + DFQ + CL": {**preset, "reconstruction": {**one_phase, "ranks": [100]}},
            f"{bits} full weights + DFQ + CL": {
                **preset,
                "reconstruction": {**one_phase, "weights": "full", "learning_rate": 4e-4},
            },
            f"{bits} AILoC + DFQ + CL + learned scales": {
                **preset,
                "reconstruction": {**learned, "scale_learning_rate": SCALE_LEARNING_RATE},
            },
        }
    return rows


#: What the rows that leave a part out have not either.
_UNTURNED_ROW = "residual stream as it is"


def closed_form() -> dict[str, Any]:
    """Returns the parts of the recipes ``wXaY`` one by one, at three widths."""
    rows: dict[str, Any] = {}
    for width in ("w4a8", "w4a4", "w3a3"):
        whole = {"preset": width, "rotate_residual": False, "token_weights": "equal"}
        feedback = {**whole, "compensate_activations": False, "budget": None}
        rows |= {
            f"{width} min-max": naive(width),
            f"{width} folded LayerNorms, searched ranges": {"preset": width, **_PLAIN},
            f"{width} + rotated heads": {"preset": width, **_PLAIN, "rotate_heads": True},
            f"{width} + error feedback": whole if width == "w4a8" else feedback,
        }
        if width != "w4a8":
            rows |= {
                f"{width} + compensated inputs": {**whole, "budget": None},
                f"{width} + widths within the budget": whole,
            }
        rows[f"{width} + rotated residual stream"] = {"preset": width, "token_weights": "equal"}
        rows[f"{width} + weighed tokens"] = width
        if width != "w4a8":
            rows |= {
                f"{width}, {_UNTURNED_ROW}, without compensated inputs": {**whole, "compensate_activations": False},
                f"{width}, {_UNTURNED_ROW}, without error feedback": {**whole, "weight_rounding": "nearest"},
            }
        rows[f"{width}, {_UNTURNED_ROW}, without rotated heads"] = {**whole, "rotate_heads": False}
    return rows


TABLES = {
    "recipes": Table("accuracy", "Accuracy", RECIPES, LEARNING_IMAGES),
    "mnist": Table("accuracy_mnist", "Accuracy on MNIST", RECIPES, LEARNING_IMAGES, "mnist"),
    "modelnet40": Table("accuracy_modelnet40", "Accuracy on ModelNet40", RECIPES, LEARNING_IMAGES, "modelnet40"),
    "closed-form": Table(
        "closed_form",
        "Ablation of the recipes wXaY",
        closed_form(),
        LEARNING_IMAGES,
        note="Each row with a + adds a part to the one above it; the others leave one out of the row before the last two +.\n"
        "Nothing is learned; seeds draw the rotation of the residual stream and the signs that the output is probed with.",
    ),
    "ablation": Table(
        "ablation",
        "Ablation of AIQViT",
        ablation(),
        ABLATION_IMAGES,
        note="DFQ is the dynamic focusing quantizer with learned b1 and b2, AILoC low-rank compensation with the rank search, CL the\n"
        "curriculum; without DFQ the Softmax output is uniform, its range searched by the\n"
        "error of attention times V or, where the row says so, from least to greatest. Learned scales are ours; full weights,\n"
        "the fixed rank, the paper's order and the min-max range are controls. The schedule is a fraction of `quick`: read rows beside each other.",
    ),
}


@dataclass
class Row:
    """One recipe. Accuracies and drops in percent; standard errors; drops are paired by image.

    ``speedup`` is over the float file, batch 1, one thread; 0 where it was not measured.
    """

    config: str
    images: int
    top1_torch: float
    top1_onnxruntime: float
    drop: float
    drop_error: float
    kept: float
    disagreement: float
    quantize_seconds: float
    file_mb: float
    file_share: float
    verified: bool
    threads: int = 2
    seed: int = 0
    steps: int = 0
    speedup: float = 0.0


def measure(name: str, table: Table, task: Task, seed: int, base: Accuracy, float_file: Path, kept: Path) -> Row:
    """Quantizes, exports, verifies, evaluates and times one recipe."""
    recipe = QuantConfig.from_any(table.rows[name])
    learning = recipe.reconstruction
    calibration = task.calibration(CALIBRATION_IMAGES if learning is None else table.learning_images)
    folder = kept / f"{table.file}-{name}-{seed}".replace(" ", "-")
    start = time.perf_counter()
    qmodel = qpass.quantize_graph(task.model, calibration, recipe, seed=seed, checkpoint_dir=folder)
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        path = qpass.export_onnx(qmodel, Path(folder) / "model.onnx")
        verified = qpass.verify_onnx(qmodel, path, calibration[0][:8], strict=False)
        in_torch = evaluate_top1(qmodel, task.evaluation)
        in_onnxruntime = evaluate_top1(OrtSession(path), task.evaluation)
        size = path.stat().st_size
        timed = benchmark({"float": float_file, "row": path}, baseline="float", runs=30)
    if not verified.passed:
        click.echo(str(verified))
    report = qpass.quantization_report(qmodel)
    click.echo(str(report))
    if table.file == "accuracy" and not seed and report.reconstruction:
        learned_blocks.write(RESULTS, name, report.reconstruction)
    drop, error = in_onnxruntime.drop_from(base)
    return Row(
        config=name,
        images=sum(len(batch) for batch in calibration),
        top1_torch=100 * in_torch.top1,
        top1_onnxruntime=100 * in_onnxruntime.top1,
        drop=100 * drop,
        drop_error=100 * error,
        kept=100 * in_onnxruntime.top1 / base.top1,
        disagreement=100 * abs(in_torch.top1 - in_onnxruntime.top1),
        quantize_seconds=seconds,
        file_mb=size / 1e6,
        file_share=100 * size / float_file.stat().st_size,
        verified=verified.passed,
        threads=torch.get_num_threads(),
        seed=seed,
        steps=0 if learning is None else learning.steps_of_a_block * (2 if learning.order == LearningOrder.THREE_STAGE else 1),
        speedup=float(next(row.speedup for row in timed.rows if row.name == "row")),
    )


def measured_elsewhere(row: str, table: Table, seed: int) -> Row | None:
    """Returns the row of the recipes' table with the same recipe, network and images, or None."""
    main_table = TABLES["recipes"]
    if table is main_table or table.task != main_table.task or not isinstance(table.rows[row], str):
        return None
    known = [r for r in read_rows(RESULTS / "accuracy.csv", Row) if (r.config, r.seed) == (table.rows[row], seed)]
    return replace(known[0], config=row) if known else None


def write(table: Table, task: Task, rows: list[Row], base: Accuracy, command: str) -> None:
    """Writes the tables."""
    RESULTS.mkdir(exist_ok=True)
    lines = [
        f"# {table.title}",
        "",
        f"Written by `{command}` on {describe_machine()}.",
        task.description,
        *([table.note] if table.note else []),
        "",
        f"Float: {100 * base.top1:.2f} ± {100 * base.standard_error:.2f} %.",
        "",
        "Steps are gradient steps for each block. Speed is over the float file's, batch 1, one thread, while other work may have run.",
        "",
        "| recipe | seed | images | steps | top-1 torch | top-1 onnxruntime | below float | kept | torch - onnxruntime | file | speed | verified | quantized in |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.config} | {r.seed} | {r.images} | {r.steps or ''} | {r.top1_torch:.2f} | {r.top1_onnxruntime:.2f} | {r.drop:.2f} ± {r.drop_error:.2f} | {r.kept:.1f} % "
        f"| {r.disagreement:.2f} | {r.file_mb:.2f} MB, {r.file_share:.1f} % | {f'{r.speedup:.2f}' if r.speedup else ''} | {'yes' if r.verified else 'no'} | {r.quantize_seconds:.0f} s, {r.threads} thread{'s' * (r.threads > 1)} |"
        for r in rows
    ]
    (RESULTS / f"{table.file}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_rows(RESULTS / f"{table.file}.csv", rows)


@click.command()
@click.option("--table", "name", type=click.Choice(list(TABLES)), default="recipes", show_default=True)
@click.option("--rows", "wanted", multiple=True, help="Rows to measure  [default: all]")
@click.option("--seed", default=0, show_default=True, help="Of what is drawn at random: rotation, probes, learning.")
@click.option("--fresh", is_flag=True, help="Measure every row anew.")
@click.option(
    "--checkpoint-dir", type=click.Path(path_type=Path), help="Keep learned blocks here  [default: a temporary folder]"
)
def main(name: str, wanted: tuple[str, ...], seed: int, fresh: bool, checkpoint_dir: Path | None) -> None:
    """Measure the recipes and write the tables."""
    table = TABLES[name]
    task = TASKS[table.task]()
    order = list(table.rows)
    rows = {} if fresh else {(row.config, row.seed): row for row in read_rows(RESULTS / f"{table.file}.csv", Row)}
    command = " ".join(["python benchmarks/accuracy.py", *(() if name == "recipes" else ("--table", name))])
    with tempfile.TemporaryDirectory() as folder:
        float_file = export_float(trace(task.model, (task.images[: task.batch],)), Path(folder) / "float.onnx")
        base = evaluate_top1(OrtSession(float_file), task.evaluation)
        click.echo(f"float {100 * base.top1:.2f}")
        for row in wanted or table.rows:
            if (row, seed) not in rows:
                kept = checkpoint_dir or Path(folder)
                known = measured_elsewhere(row, table, seed)
                rows[row, seed] = known or measure(row, table, task, seed, base, float_file, kept)
            click.echo(str(rows[row, seed]))
            write(table, task, sorted(rows.values(), key=lambda r: (order.index(r.config), r.seed)), base, command)
    if table.file == "accuracy":
        methods.write(RESULTS)


if __name__ == "__main__":
    main()
