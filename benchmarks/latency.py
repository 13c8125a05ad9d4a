"""Times qpass's files in alternation: against float onnxruntime and its own quantizers, or recipes against each other.

Run: python benchmarks/latency.py [--table tools|recipes] [--models deit_tiny_patch16_224 ...] [--runs 30]
Writes: benchmarks/results/latency.md and .csv, or latency_recipes.md and .csv. Random weights: speed only.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import timm
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

import qpass
from qpass.backends.onnx_qdq import export_float
from qpass.backends.onnxruntime import LatencyReport
from qpass.backends.onnxruntime.latency import benchmark
from qpass.errors import QPassError
from qpass.trace import trace

RESULTS = Path(__file__).parent / "results"
#: Recipes against w4a4. What is learned merges into the weights: random ones have the same speed.
RECIPES: dict[str, Any] = {
    "w4a4": "w4a4",
    "aiqvit-w4a4": {"preset": "aiqvit-w4a4", "reconstruction": None},
    "aiqvit-w4a4, affine": {"preset": "aiqvit-w4a4", "reconstruction": None, "post_softmax": {"code_zero": "affine"}},
    "aiqvit-w4a4, zero": {"preset": "aiqvit-w4a4", "reconstruction": None, "post_softmax": {"code_zero": "zero"}},
    "repq-vit-w4a4": "repq-vit-w4a4",
    "w3a3": "w3a3",
    "w3a3, residual rank 16": {"preset": "w3a3", "weight": {"residual_rank": 16}},
}


class _Reader(CalibrationDataReader):
    """Feeds the same batches to onnxruntime's calibration."""

    def __init__(self, name: str, batches: list[np.ndarray]) -> None:
        self._feeds = iter([{name: batch} for batch in batches])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def make_files(model_name: str, config: str, folder: Path) -> dict[str, Path]:
    """Returns float, qpass's and onnxruntime's quantized files of one model."""
    torch.manual_seed(0)
    model = timm.create_model(model_name).eval()
    size = model.pretrained_cfg["input_size"]
    images = torch.randn(4, *size)
    files = {"float": export_float(trace(model, (images,)), folder / "float.onnx")}
    qmodel = qpass.quantize_graph(model, [images], config)
    files[f"qpass {config}"] = qpass.export_onnx(qmodel, folder / "qpass.onnx")
    prepared = folder / "prepared.onnx"
    quant_pre_process(str(files["float"]), str(prepared), skip_symbolic_shape=True)
    _clear_value_info(prepared)
    static, dynamic = folder / "static.onnx", folder / "dynamic.onnx"
    quantize_static(
        str(prepared), str(static), _Reader("x", [images.numpy()]), quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, per_channel=True,
    )  # fmt: skip
    quantize_dynamic(str(prepared), str(dynamic), weight_type=QuantType.QInt8, per_channel=True)
    return {**files, "ort quantize_static": static, "ort quantize_dynamic": dynamic}


def make_recipe_files(model_name: str, folder: Path) -> dict[str, Path]:
    """Returns the file of each recipe for one model."""
    torch.manual_seed(0)
    model = timm.create_model(model_name).eval()
    images = torch.randn(4, *model.pretrained_cfg["input_size"])
    return {
        name: qpass.export_onnx(qpass.quantize_graph(model, [images], config), folder / f"{index}.onnx")
        for index, (name, config) in enumerate(RECIPES.items())
    }


def _clear_value_info(path: Path) -> None:
    """Removes inferred shapes: onnxruntime's quantize_dynamic trips over those of a renamed initializer."""
    model = onnx.load(path)
    del model.graph.value_info[:]
    onnx.save(model, path)


def write(reports: dict[str, LatencyReport], command: str, file: str, baseline: str) -> None:
    """Writes the tables."""
    RESULTS.mkdir(exist_ok=True)
    machine = next(iter(reports.values())).machine
    lines = [
        "# Latency",
        "",
        f"Written by `{command}` on {machine}.",
        f"Speed-up over {baseline}, all files of a cell timed in alternation; medians, interquartile range over median.",
        "",
        "| model | batch | threads | file | speed-up | spread |",
        "|---|---|---|---|---|---|",
    ]
    rows = [(model, row) for model, report in reports.items() for row in report.rows]
    lines += [f"| {m} | {r.batch} | {r.threads} | {r.name} | {r.speedup:.2f} | {r.spread:.1%} |" for m, r in rows]
    lines += ["", "## What fused", ""]
    for model, report in reports.items():
        for name, fusion in report.fusion.items():
            integer = ", ".join(f"{n} {op}" for op, n in fusion.integer.items()) or "none"
            floats = ", ".join(f"{n} {op}" for op, n in fusion.float.items()) or "none"
            lines.append(f"- {model}, {name}: integer {integer}; float {floats}; {len(fusion.unfused)} pairs unfused")
    if file == "latency":
        lines += ["", "## Where qpass loses", ""]
        lines += losses(rows) or ["Nowhere in this table."]
    (RESULTS / f"{file}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with (RESULTS / f"{file}.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["model", "file", "batch", "threads", "median_ms", "spread", "speedup"])
        table.writerows([m, r.name, r.batch, r.threads, r.median_ms, r.spread, r.speedup] for m, r in rows)


def losses(rows: list[tuple[str, object]]) -> list[str]:
    """Returns a line for every cell in which another file beats qpass's."""
    found = []
    for model, ours in rows:
        if ours.name.startswith("qpass"):
            for other_model, other in rows:
                same = (other_model, other.batch, other.threads) == (model, ours.batch, ours.threads)
                if same and not other.name.startswith("qpass") and other.speedup > ours.speedup:
                    cell = f"{model}, batch {ours.batch}, {ours.threads} threads"
                    found.append(f"- {cell}: {other.name} {other.speedup:.2f}, {ours.name} {ours.speedup:.2f}")
    return found


@click.command()
@click.option("--table", type=click.Choice(["tools", "recipes"]), default="tools", show_default=True)
@click.option("--models", multiple=True, default=("deit_tiny_patch16_224", "deit_small_patch16_224"))
@click.option("--config", default="w8a8", help="The recipe that is compared with other tools.")
@click.option("--batches", multiple=True, type=int, default=(1, 8))
@click.option("--threads", multiple=True, type=int, default=(1, 2))
@click.option("--runs", default=30)
def main(
    table: str, models: tuple[str, ...], config: str, batches: tuple[int, ...], threads: tuple[int, ...], runs: int
) -> None:
    """Time the models and write the tables."""
    reports = {}
    file, baseline = ("latency", "float") if table == "tools" else ("latency_recipes", "w4a4")
    for model in models:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            try:
                files = make_files(model, config, folder) if table == "tools" else make_recipe_files(model, folder)
            except QPassError as error:
                raise click.ClickException(f"{model}: {error}") from error
            reports[model] = benchmark(files, baseline=baseline, batches=batches, threads=threads, runs=runs)
            click.echo(f"{model}\n{reports[model]}")
    over = "float onnxruntime" if table == "tools" else f"{baseline}, a file of qpass"
    write(reports, " ".join(["python benchmarks/latency.py", *sys.argv[1:]]), file, over)


if __name__ == "__main__":
    main()
