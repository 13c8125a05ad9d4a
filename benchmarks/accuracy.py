"""Top-1 of DeiT-T at each recipe, in torch and through onnxruntime, on real images.

Run: python benchmarks/accuracy.py [--configs w8a8 --configs w4a4 ...]
Writes: benchmarks/results/accuracy.md and accuracy.csv; finished rows are kept and not run again (--fresh drops them).
"""

from __future__ import annotations

import csv
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import click
import torch
from assets import assets

import qpass
from qpass.backends.onnx_qdq import export_float
from qpass.backends.onnxruntime import OrtSession
from qpass.backends.onnxruntime.latency import describe_machine
from qpass.data import ImageTransform, image_batches, open_images
from qpass.evaluate import Accuracy, evaluate_top1
from qpass.models import create_model
from qpass.trace import trace

RESULTS = Path(__file__).parent / "results"
CONFIGS = ("w8a8", "w6a6", "w4a8", "w4a4", "w3a3", "repq-vit-w6a6", "repq-vit-w4a8", "repq-vit-w4a4")
CALIBRATION_IMAGES = 128


@dataclass
class Row:
    """One recipe. Accuracies and drops in percent, errors are standard errors, drops and errors paired by image."""

    config: str
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


def measure(config: str, model: torch.nn.Module, data: Data, base: Accuracy, float_bytes: int) -> Row:
    """Quantizes, exports, verifies and evaluates one recipe."""
    start = time.perf_counter()
    qmodel = qpass.quantize_graph(model, data.calibration, config)
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        path = qpass.export_onnx(qmodel, Path(folder) / "model.onnx")
        verified = qpass.verify_onnx(qmodel, path, data.calibration[0][:8], strict=False)
        in_torch = evaluate_top1(qmodel, data.evaluation)
        in_onnxruntime = evaluate_top1(OrtSession(path), data.evaluation)
        size = path.stat().st_size
    if not verified.passed:
        click.echo(str(verified))
    drop, error = in_onnxruntime.drop_from(base)
    return Row(
        config=config,
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
    )


@dataclass
class Data:
    """Calibration images in batches, and labelled images that calibrate nothing."""

    calibration: list[torch.Tensor]
    evaluation: list[tuple[torch.Tensor, torch.Tensor | None]]

    @classmethod
    def read(cls) -> Data:
        """Reads the assets: centre crop 224 of 128 training images, and of the 650 validation images."""
        transform = ImageTransform(crop=224, resize=None)
        calibration = open_images(assets() / "imagenet_1000_256" / "images.zip", transform)
        evaluation = open_images(assets() / "imagenet_val650_227" / "images.zip", transform)
        return cls(
            [images for images, _ in image_batches(calibration, 16, limit=CALIBRATION_IMAGES)],
            list(image_batches(evaluation, 50)),
        )


def write(rows: list[Row], base: Accuracy, command: str) -> None:
    """Writes the tables."""
    RESULTS.mkdir(exist_ok=True)
    lines = [
        "# Accuracy",
        "",
        f"Written by `{command}` on {describe_machine()}.",
        f"DeiT-T (ImageNet-1k), calibrated on {CALIBRATION_IMAGES} training images, evaluated on {len(base.correct)} validation images",
        "that are easier than the whole set: read the drop from float on the same images, with its paired standard error.",
        "",
        f"Float: {100 * base.top1:.2f} ± {100 * base.standard_error:.2f} %.",
        "",
        "| recipe | top-1 torch | top-1 onnxruntime | below float | kept | torch - onnxruntime | file | verified | quantized in |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.config} | {r.top1_torch:.2f} | {r.top1_onnxruntime:.2f} | {r.drop:.2f} ± {r.drop_error:.2f} | {r.kept:.1f} % "
        f"| {r.disagreement:.2f} | {r.file_mb:.2f} MB, {r.file_share:.1f} % | {'yes' if r.verified else 'no'} | {r.quantize_seconds:.0f} s |"
        for r in rows
    ]
    (RESULTS / "accuracy.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with (RESULTS / "accuracy.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [f.name for f in fields(Row)])
        table.writeheader()
        table.writerows(asdict(row) for row in rows)


def read_rows() -> list[Row]:
    """Returns the rows of an earlier run."""
    path = RESULTS / "accuracy.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:
        return [_row(record) for record in csv.DictReader(file)]


def _row(record: dict[str, str]) -> Row:
    texts: dict[str, object] = {"config": record["config"], "verified": record["verified"] == "True"}
    return Row(**{name: texts.get(name) if name in texts else float(value) for name, value in record.items()})


@click.command()
@click.option("--configs", multiple=True, default=CONFIGS)
@click.option("--fresh", is_flag=True, help="Measure every row anew.")
def main(configs: tuple[str, ...], fresh: bool) -> None:
    """Measure the recipes and write the tables."""
    model = create_model("deit_tiny_patch16_224", assets() / "deit_tiny_in1k" / "model.safetensors")
    data = Data.read()
    with tempfile.TemporaryDirectory() as folder:
        path = export_float(trace(model, (data.calibration[0],)), Path(folder) / "float.onnx")
        base, float_bytes = evaluate_top1(OrtSession(path), data.evaluation), path.stat().st_size
    click.echo(f"float {100 * base.top1:.2f}")
    rows = {} if fresh else {row.config: row for row in read_rows()}
    for config in configs:
        if config not in rows:
            rows[config] = measure(config, model, data, base, float_bytes)
        click.echo(str(rows[config]))
        write(
            [rows[name] for name in CONFIGS if name in rows], base, " ".join(["python benchmarks/accuracy.py", *sys.argv[1:]])
        )


if __name__ == "__main__":
    main()
