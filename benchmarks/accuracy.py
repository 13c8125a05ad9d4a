"""Top-1 of DeiT-T at each recipe, in torch and through onnxruntime, on real images.

Run: python benchmarks/accuracy.py [--table recipes|ablation] [--rows w8a8 --rows w4a4 ...]
Writes: benchmarks/results/accuracy.md and .csv, and learned_blocks.md, or ablation.md and .csv; finished rows are kept and not run
again (--fresh drops them). Recipes that learn keep their blocks in --checkpoint-dir and go on behind the last one.
"""

from __future__ import annotations

import csv
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import click
import learned_blocks
import torch
from assets import assets

import qpass
from qpass.backends.onnx_qdq import export_float
from qpass.backends.onnxruntime import OrtSession
from qpass.backends.onnxruntime.latency import describe_machine
from qpass.config import SOFTMAX_PERCENTILES, QuantConfig
from qpass.data import ImageTransform, image_batches, open_images
from qpass.evaluate import Accuracy, evaluate_top1
from qpass.models import create_model
from qpass.presets import SCALE_LEARNING_RATE
from qpass.trace import trace

RESULTS = Path(__file__).parent / "results"
#: Calibration images of recipes that learn nothing, of those that do, and of the ablation.
CALIBRATION_IMAGES, LEARNING_IMAGES, ABLATION_IMAGES = 128, 1000, 256
PRESETS = (
    "w8a8", "w6a6", "w4a8", "w4a4", "w3a3", "repq-vit-w6a6", "repq-vit-w4a8", "repq-vit-w4a4",
    "aiqvit-w6a6", "aiqvit-w4a8", "aiqvit-w4a4", "aiqvit-w3a3",
    "aiqvit-lsq-w6a6", "aiqvit-lsq-w4a8", "aiqvit-lsq-w4a4", "aiqvit-lsq-w3a3",
    "w3a8", "w2a8",
)  # fmt: skip
RECIPES: dict[str, Any] = {name: name for name in PRESETS} | {
    f"{name}, residual rank {rank}": {"preset": name, "weight": {"residual_rank": rank}}
    for name in ("w3a8", "w2a8", "w3a3")
    for rank in (16, 32)
}


@dataclass(frozen=True)
class Table:
    """Rows to measure by name, and how the page is headed."""

    file: str
    title: str
    rows: Mapping[str, Any]
    learning_images: int
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


TABLES = {
    "recipes": Table("accuracy", "Accuracy", RECIPES, LEARNING_IMAGES),
    "ablation": Table(
        "ablation",
        "Ablation of AIQViT",
        ablation(),
        ABLATION_IMAGES,
        "DFQ is the dynamic focusing quantizer with learned b1 and b2, AILoC low-rank compensation with the rank search, CL the\n"
        "curriculum; without DFQ the Softmax output is uniform, its range searched by the\n"
        "error of attention times V or, where the row says so, from least to greatest. Learned scales are ours; full weights,\n"
        "the fixed rank, the paper's order and the min-max range are controls. The schedule is a fraction of `quick`: read rows beside each other.",
    ),
}


@dataclass
class Row:
    """One recipe. Accuracies and drops in percent, errors are standard errors, drops and errors paired by image."""

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


def measure(name: str, config: Any, model: torch.nn.Module, data: Data, base: Accuracy, float_bytes: int, kept: Path) -> Row:
    """Quantizes, exports, verifies and evaluates one recipe."""
    recipe = QuantConfig.from_any(config)
    calibration = data.learning if recipe.reconstruction is not None else data.calibration
    start = time.perf_counter()
    qmodel = qpass.quantize_graph(model, calibration, recipe, checkpoint_dir=kept / name.replace(" ", "-"))
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        path = qpass.export_onnx(qmodel, Path(folder) / "model.onnx")
        verified = qpass.verify_onnx(qmodel, path, calibration[0][:8], strict=False)
        in_torch = evaluate_top1(qmodel, data.evaluation)
        in_onnxruntime = evaluate_top1(OrtSession(path), data.evaluation)
        size = path.stat().st_size
    if not verified.passed:
        click.echo(str(verified))
    report = qpass.quantization_report(qmodel)
    click.echo(str(report))
    if name in RECIPES and report.reconstruction:
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
        file_share=100 * size / float_bytes,
        verified=verified.passed,
        threads=torch.get_num_threads(),
    )


@dataclass
class Data:
    """Calibration images in batches, and labelled images that calibrate nothing."""

    calibration: list[torch.Tensor]
    learning: list[torch.Tensor]
    evaluation: list[tuple[torch.Tensor, torch.Tensor | None]]

    @classmethod
    def read(cls, learning_images: int) -> Data:
        """Reads the assets: centre crop 224 of the training images, and of the 650 validation images."""
        transform = ImageTransform(crop=224, resize=None)
        calibration = open_images(assets() / "imagenet_1000_256" / "images.zip", transform)
        evaluation = open_images(assets() / "imagenet_val650_227" / "images.zip", transform)
        return cls(
            [images for images, _ in image_batches(calibration, 16, limit=CALIBRATION_IMAGES)],
            [images for images, _ in image_batches(calibration, 16, limit=learning_images)],
            list(image_batches(evaluation, 50)),
        )


def write(table: Table, rows: list[Row], base: Accuracy, command: str) -> None:
    """Writes the tables."""
    RESULTS.mkdir(exist_ok=True)
    lines = [
        f"# {table.title}",
        "",
        f"Written by `{command}` on {describe_machine()}.",
        f"DeiT-T (ImageNet-1k), calibrated on training images, evaluated on {len(base.correct)} validation images that are",
        "easier than the whole set: read the drop from float on the same images, with its paired standard error.",
        *([table.note] if table.note else []),
        "",
        f"Float: {100 * base.top1:.2f} ± {100 * base.standard_error:.2f} %.",
        "",
        "| recipe | images | top-1 torch | top-1 onnxruntime | below float | kept | torch - onnxruntime | file | verified | quantized in |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.config} | {r.images} | {r.top1_torch:.2f} | {r.top1_onnxruntime:.2f} | {r.drop:.2f} ± {r.drop_error:.2f} | {r.kept:.1f} % "
        f"| {r.disagreement:.2f} | {r.file_mb:.2f} MB, {r.file_share:.1f} % | {'yes' if r.verified else 'no'} | {r.quantize_seconds:.0f} s, {r.threads} thread{'s' * (r.threads > 1)} |"
        for r in rows
    ]
    (RESULTS / f"{table.file}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with (RESULTS / f"{table.file}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def read_rows(table: Table) -> list[Row]:
    """Returns the rows of an earlier run."""
    path = RESULTS / f"{table.file}.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:
        return [_row(record) for record in csv.DictReader(file)]


def _row(record: dict[str, str]) -> Row:
    read: dict[str, Any] = {"config": str, "images": int, "threads": int, "verified": "True".__eq__}
    return Row(**{name: read.get(name, float)(value) for name, value in record.items()})


@click.command()
@click.option("--table", "name", type=click.Choice(list(TABLES)), default="recipes", show_default=True)
@click.option("--rows", "wanted", multiple=True, help="Rows to measure  [default: all]")
@click.option("--fresh", is_flag=True, help="Measure every row anew.")
@click.option(
    "--checkpoint-dir", type=click.Path(path_type=Path), help="Keep learned blocks here  [default: a temporary folder]"
)
def main(name: str, wanted: tuple[str, ...], fresh: bool, checkpoint_dir: Path | None) -> None:
    """Measure the recipes and write the tables."""
    table = TABLES[name]
    model = create_model("deit_tiny_patch16_224", assets() / "deit_tiny_in1k" / "model.safetensors")
    data = Data.read(table.learning_images)
    with tempfile.TemporaryDirectory() as folder:
        path = export_float(trace(model, (data.calibration[0],)), Path(folder) / "float.onnx")
        base, float_bytes = evaluate_top1(OrtSession(path), data.evaluation), path.stat().st_size
    click.echo(f"float {100 * base.top1:.2f}")
    rows = {} if fresh else {row.config: row for row in read_rows(table)}
    command = " ".join(["python benchmarks/accuracy.py", *(() if name == "recipes" else ("--table", name))])
    with tempfile.TemporaryDirectory() as folder:
        for row in wanted or table.rows:
            if row not in rows:
                kept = checkpoint_dir or Path(folder)
                rows[row] = measure(row, table.rows[row], model, data, base, float_bytes, kept)
            click.echo(str(rows[row]))
            write(table, [rows[each] for each in table.rows if each in rows], base, command)


if __name__ == "__main__":
    main()
