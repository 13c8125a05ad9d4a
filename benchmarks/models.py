"""Takes models of timm, transformers and torchvision with random weights the whole way: traced, quantized, exported, verified.

Run: python benchmarks/models.py [--models NAME ...] [--config w8a8]
Writes: docs/models.md and benchmarks/results/models.json (at other widths than w8a8: models_<config>.md and .json in results).
"""

from __future__ import annotations

import collections
import gc
import json
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import model_zoo
import timm
import torch
import torchvision
import transformers

import qpass

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "models.md"


@dataclass
class Row:
    """What became of one model."""

    library: str
    model: str
    dynamic_batch: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    stayed_float: dict[str, int] = field(default_factory=dict)
    unrotated: dict[str, int] = field(default_factory=dict)
    verified: bool = False
    ties: int = 0
    wrong: int = 0
    seconds: float = 0.0
    error: str = ""


def run(library: str, name: str, config: str) -> Row:
    """Takes one model the whole way."""
    row, start = Row(library, name), time.perf_counter()
    try:
        model, inputs = model_zoo.create(library, name)
        qmodel = qpass.quantize_graph(model, [inputs], config, progress=False)
        report = qpass.quantization_report(qmodel)
        row.dynamic_batch, row.counts = report.dynamic_batch, report.counts
        row.stayed_float = dict(collections.Counter(f"{kind}: {reason}" for kind, _, reason in report.stayed_float))
        row.unrotated = dict(collections.Counter(what for what, _, _ in report.unrotated))
        with tempfile.TemporaryDirectory() as folder:
            path = qpass.export_onnx(qmodel, Path(folder) / "model.onnx")
            verified = qpass.verify_onnx(qmodel, path, _others(inputs), strict=False)
        layers = [layer for check in verified.checks for layer in check.layers]
        row.verified, row.ties = verified.passed, sum(layer.ties for layer in layers)
        row.wrong = sum(layer.wrong for layer in layers)
        row.error = "; ".join(failure for check in verified.checks for failure in check.failures)[:300]
    except Exception as error:  # a row says what failed, and the sweep goes on
        row.error = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    row.seconds = time.perf_counter() - start
    return row


def _others(inputs: model_zoo.Inputs) -> model_zoo.Inputs:
    """Returns inputs of the same shapes that did not calibrate."""
    if isinstance(inputs, torch.Tensor):
        return inputs.flip(-2)
    return {name: tensor.flip(-1) for name, tensor in inputs.items()}


def write(rows: Sequence[Row], config: str, page: Path, data: Path) -> None:
    """Writes the page and the data behind it."""
    passed = sum(row.verified for row in rows)
    versions = ", ".join(f"{library.__name__} {library.__version__}" for library in (timm, transformers, torchvision, torch))
    command = "python benchmarks/models.py" + ("" if config == "w8a8" else f" --config {config}")
    lines = [
        "# Models",
        "",
        f"Written by `{command}`: {config}, random weights, small configurations; {versions}.",
        f"**{passed} of {len(rows)}** traced by torch.export, quantized, exported and verified: codes equal save for counted ties.",
        "",
        "A batch that is fixed is so because the model's own code holds for one only. Convolutions whose windows overlap and grouped ones",
        "stay float in every model. Detectors of torchvision, whose control flow depends on data, are quantized in parts: see",
        "[detection](../benchmarks/results/detection.md).",
    ]
    for library in dict.fromkeys(row.library for row in rows):
        lines += [
            "",
            f"## {library}",
            "",
            "| model | batch | Linears | attention matmuls | patch or 1x1 convolutions | stayed float | ties | verified |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            if row.library == library:
                kept = "; ".join(f"{n} {why}" for why, n in row.stayed_float.items()) or "nothing"
                counts = " | ".join(str(row.counts.get(kind, 0)) for kind in ("linear", "matmul", "conv2d"))
                verdict = "yes" if row.verified else f"no: {row.error}"
                batch = "dynamic" if row.dynamic_batch else "fixed"
                lines.append(f"| {row.model} | {batch} | {counts} | {kept} | {row.ties} | {verdict} |")
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    data.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


@click.command()
@click.option("--models", multiple=True, help="Only these; rows of the others are kept  [default: all]")
@click.option("--config", default="w8a8", show_default=True)
def main(models: tuple[str, ...], config: str) -> None:
    """Run the sweep."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    page, data = (
        (PAGE, RESULTS / "models.json")
        if config == "w8a8"
        else (RESULTS / f"models_{config}.md", RESULTS / f"models_{config}.json")
    )
    kept = json.loads(data.read_text(encoding="utf-8")) if models and data.exists() else []
    rows = {row["model"]: Row(**row) for row in kept}
    every = [(library, name) for library, (names, _) in model_zoo.ZOO.items() for name in names]
    for library, name in every:
        if not models or name in models:
            row = rows[name] = run(library, name, config)
            click.echo(f"{name:<44} {'verified' if row.verified else 'FAILED'} {row.counts} {row.seconds:.0f} s {row.error}")
            gc.collect()
    write([rows[name] for _, name in every if name in rows], config, page, data)


if __name__ == "__main__":
    main()
