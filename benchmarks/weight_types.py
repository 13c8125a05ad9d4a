"""DeiT-T with 8-bit factors as int8 and as uint8: exactness on this processor, and speed.

Run: python benchmarks/weight_types.py
Writes: benchmarks/results/weight_types.md and .csv; rows of other processors are kept.
"""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import click
from accuracy_tasks import deit_tiny, validation_images
from provenance import commit, versions
from result_rows import read_rows, write_rows

import qpass
from qpass.backends.onnx_qdq import export_float
from qpass.backends.onnxruntime import OrtSession
from qpass.backends.onnxruntime.latency import benchmark, describe_machine
from qpass.evaluation.top1 import evaluate_top1
from qpass.graph.capture.trace import trace

RESULTS = Path(__file__).parent / "results"
CALIBRATION_IMAGES = 128
#: 8 bits throughout, and at the ends of the network alone.
RECIPES = ("w8a8", "repq-vit-w4a4")
TYPES = ("int8", "uint8")


@dataclass
class Row:
    """One file on one processor. Accuracies in percent; speedup over float at batch 1, one thread."""

    machine: str
    recipe: str
    weight_type: str
    verified: bool
    wrong: float
    top1_torch: float
    top1: float
    speedup: float
    commit: str = "not kept"
    versions: str = "not kept"
    drawn: str = "the first 128"


def measure() -> list[Row]:
    """Quantizes, exports both types, verifies, evaluates and times them in turn."""
    task, rows = deit_tiny(), []
    calibration, drawn = task.calibration(CALIBRATION_IMAGES)
    for recipe in RECIPES:
        graph = qpass.quantize_graph(task.model, calibration, recipe)
        in_torch = evaluate_top1(graph, validation_images())
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a file overflows is what is measured here
            files = {kind: qpass.export_onnx(graph, Path(folder) / f"{kind}.onnx", weight_type=kind) for kind in TYPES}
            float_file = export_float(trace(task.model, (calibration[0],)), Path(folder) / "float.onnx")
            timed = benchmark({"float": float_file, **files}, baseline="float", runs=30)
            for kind, path in files.items():
                report = qpass.verify_onnx(graph, path, calibration[0][:8], strict=False)
                shipped = report.checks[1].layers
                rows.append(
                    Row(
                        machine=describe_machine(),
                        recipe=recipe,
                        weight_type=kind,
                        verified=report.passed,
                        wrong=100 * sum(layer.wrong for layer in shipped) / sum(layer.codes for layer in shipped),
                        top1_torch=100 * in_torch.top1,
                        top1=100 * evaluate_top1(OrtSession(path), validation_images()).top1,
                        speedup=next(row.speedup for row in timed.rows if row.name == kind),
                        commit=commit(),
                        versions=", ".join(f"{name} {version}" for name, version in versions().items()),
                        drawn=f"{drawn.count} of {drawn.of}, seed {drawn.seed}, {drawn.digest}",
                    )
                )
                click.echo(str(rows[-1]))
    return rows


def write(rows: list[Row]) -> None:
    """Writes the table."""
    lines = [
        "# 8-bit factors as int8 and as uint8",
        "",
        f"Written by `python benchmarks/weight_types.py`. DeiT-T (ImageNet-1k), {CALIBRATION_IMAGES} training images, 650 validation",
        "images. Wrong codes are those of each layer when it is fed with torch's codes. Speed is over the float file's, batch 1, one",
        "thread, timed in alternation, while other work may have run.",
        "",
        "| processor | recipe | type | the same network | wrong codes | top-1 torch | top-1 onnxruntime | speed | images | commit |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.machine} | {r.recipe} | {r.weight_type} | {'yes' if r.verified else '**no**'} | {r.wrong:.2f} % | {r.top1_torch:.2f} "
        f"| {r.top1:.2f} | {r.speedup:.2f} | {r.drawn} | {r.commit} |"
        for r in rows
    ]
    (RESULTS / "weight_types.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_rows(RESULTS / "weight_types.csv", rows)


@click.command()
def main() -> None:
    """Measure this processor and write the table."""
    known = [row for row in read_rows(RESULTS / "weight_types.csv", Row) if row.machine != describe_machine()]
    write(sorted(known + measure(), key=lambda row: row.machine))


if __name__ == "__main__":
    main()
