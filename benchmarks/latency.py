"""Times qpass's files against float onnxruntime and onnxruntime's own quantizers, in alternation.

Run: python benchmarks/latency.py [--models deit_tiny_patch16_224 ...] [--runs 30]
Writes: benchmarks/results/latency.md and latency.csv. Random weights: speed only.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from pathlib import Path

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


def _clear_value_info(path: Path) -> None:
    """Removes inferred shapes: onnxruntime's quantize_dynamic trips over those of a renamed initializer."""
    model = onnx.load(path)
    del model.graph.value_info[:]
    onnx.save(model, path)


def write(reports: dict[str, LatencyReport], command: str) -> None:
    """Writes the tables."""
    RESULTS.mkdir(exist_ok=True)
    machine = next(iter(reports.values())).machine
    lines = [
        "# Latency",
        "",
        f"Written by `{command}` on {machine}.",
        "Speed-up over float onnxruntime, all files of a cell timed in alternation; medians, interquartile range over median.",
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
    lines += ["", "## Where qpass loses", ""]
    lines += losses(rows) or ["Nowhere in this table."]
    (RESULTS / "latency.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with (RESULTS / "latency.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
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
@click.option("--models", multiple=True, default=("deit_tiny_patch16_224", "deit_small_patch16_224"))
@click.option("--config", default="w8a8")
@click.option("--batches", multiple=True, type=int, default=(1, 8))
@click.option("--threads", multiple=True, type=int, default=(1, 2))
@click.option("--runs", default=30)
def main(models: tuple[str, ...], config: str, batches: tuple[int, ...], threads: tuple[int, ...], runs: int) -> None:
    """Time the models and write the tables."""
    reports = {}
    for model in models:
        with tempfile.TemporaryDirectory() as folder:
            try:
                files = make_files(model, config, Path(folder))
            except QPassError as error:
                raise click.ClickException(f"{model}: {error}") from error
            reports[model] = benchmark(files, baseline="float", batches=batches, threads=threads, runs=runs)
            click.echo(f"{model}\n{reports[model]}")
    write(reports, " ".join(["python benchmarks/latency.py", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
