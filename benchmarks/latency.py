"""Times qpass's files in turns with other runtimes and quantizers, or recipes with each other.

Run: python benchmarks/latency.py [--table tools|recipes] [--models NAME ...] [--runs 30]
Writes: benchmarks/results/latency.json, .csv, .md and .svg, or latency_recipes.*. Models of
earlier runs are kept.
Needs: pip install -e ".[bench]". What is not installed or fails is listed with its reason.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from contenders import float_runtimes, openvino_contender, ort_dynamic, ort_static
from latency_models import MODELS, build
from latency_page import Page
from torch import Tensor, nn

import qpass
from qpass.backends.onnx_qdq import export_float
from qpass.backends.onnxruntime.latency import Contender, benchmark
from qpass.graph.capture.trace import trace

#: qpass's files beside other tools, by label: recipe and target.
FILES = {
    "qpass w8a8": ("w8a8", "onnxruntime"),
    "qpass w8a8, contrib": ("w8a8", "onnxruntime-contrib"),
    "qpass codebook-w4a8": ("codebook-w4a8", "onnxruntime"),
    "qpass mixed-w4a5": ("mixed-w4a5", "onnxruntime"),
    "qpass mixed-w3a4": ("mixed-w3a4", "onnxruntime"),
}
#: How weights are rounded is no matter of speed.
_NEAREST = {"weight_rounding": "nearest"}
#: Recipes against mixed-w4a5. What is learned merges into the weights, and costs no time.
RECIPES: dict[str, Any] = {
    "mixed-w4a5": {"preset": "mixed-w4a5", **_NEAREST},
    "aiqvit-w4a4, snapped": {"preset": "aiqvit-w4a4", "reconstruction": None, "post_softmax": {"code_zero": "snapped"}},
    "aiqvit-w4a4, affine": {"preset": "aiqvit-w4a4", "reconstruction": None, "post_softmax": {"code_zero": "affine"}},
    "aiqvit-w4a4, zero": {"preset": "aiqvit-w4a4", "reconstruction": None, "post_softmax": {"code_zero": "zero"}},
    "repq-vit-w4a4": "repq-vit-w4a4",
    "ias-vit-w4a4": {"preset": "ias-vit-w4a4", "reconstruction": None},
    "ias-vit-w4a4, formula": {"preset": "ias-vit-w4a4", "reconstruction": None, "post_softmax": {"tabulated": False}},
    "dopq-vit-w4a4": {"preset": "dopq-vit-w4a4", "reconstruction": None},
    "dopq-vit-w4a4, formula": {"preset": "dopq-vit-w4a4", "reconstruction": None, "post_softmax": {"tabulated": False}},
    "mixed-w4a5, shift-log2": {
        "preset": "mixed-w4a5",
        **_NEAREST,
        "post_softmax": {"bits": 4, "quantizer": "shift-log2", "tabulated": True},
    },
    "mixed-w3a4": {"preset": "mixed-w3a4", **_NEAREST},
    "mixed-w3a4, residual rank 16": {"preset": "mixed-w3a4", **_NEAREST, "weight": {"residual_rank": 16}},
}


def tools(
    model: nn.Module, images: Tensor, folder: Path, failed: dict[str, str]
) -> tuple[dict[str, Path], dict[str, Contender]]:
    """Makes the files and contenders of one model; notes what fails."""
    files = {"float": export_float(trace(model, (images,)), folder / "float.onnx")}
    recipes = dict.fromkeys(recipe for recipe, _ in FILES.values())
    graphs = {name: qpass.quantize_graph(model, [images], {"preset": name, **_NEAREST}) for name in recipes}
    for index, (label, (recipe, target)) in enumerate(FILES.items()):
        files[label] = qpass.export_onnx(graphs[recipe], folder / f"qpass{index}.onnx", target=target)
    for label, make in (("ort quantize_static", ort_static), ("ort quantize_dynamic", ort_dynamic)):
        with _noting(failed, label):
            files[label] = make(files["float"], images, folder / f"{label.split()[-1]}.onnx")
    others: dict[str, Contender] = {}
    fused = qpass.quantize_graph(model, [images], {"preset": "w8a8", **_NEAREST, "fused_attention": True})
    shaped = qpass.export_onnx(fused, folder / "openvino.onnx", target="openvino")
    for precision in ("f32", "bf16"):
        with _noting(failed, label := f"qpass w8a8 in OpenVINO {precision.replace('f32', 'float32')}"):
            others[label] = _tried(openvino_contender(shaped, precision))
    for label, make_other in float_runtimes(model, images, files["float"]):
        with _noting(failed, label):
            others[label] = _tried(make_other())
    return files, others


def _tried(contender: Contender) -> Contender:
    """Runs a contender once, so that it fails where it is made."""
    contender(1, 1)()
    return contender


class _noting:
    """Notes an exception by label instead of raising it: other tools raise what they like."""

    def __init__(self, failed: dict[str, str], label: str) -> None:
        self.failed, self.label = failed, label

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> bool:
        if isinstance(error, Exception):
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
            self.failed[self.label] = f"{type(error).__name__}: {reason[:160]}"
        return isinstance(error, Exception)


def recipes(model: nn.Module, images: Tensor, folder: Path) -> dict[str, Path]:
    """Makes the file of each recipe for one model."""
    return {
        name: qpass.export_onnx(qpass.quantize_graph(model, [images], config), folder / f"{index}.onnx")
        for index, (name, config) in enumerate(RECIPES.items())
    }


@click.command()
@click.option("--table", type=click.Choice(["tools", "recipes"]), default="tools", show_default=True)
@click.option("--models", multiple=True, default=MODELS, help="A model's name; may be given again  [default: all]")
@click.option("--batches", multiple=True, type=int, default=(1, 8), show_default=True)
@click.option("--threads", multiple=True, type=int, default=(1, 2), show_default=True)
@click.option("--runs", default=30, show_default=True, help="Timed rounds for each setting.")
@click.option("--seconds", default=60.0, show_default=True, help="No new round of a setting after so long; five at least.")
def main(
    table: str, models: tuple[str, ...], batches: tuple[int, ...], threads: tuple[int, ...], runs: int, seconds: float
) -> None:
    """Time the models and write the tables."""
    page = Page("latency", "float onnxruntime") if table == "tools" else Page("latency_recipes", "mixed-w4a5, a file of qpass")
    for name in models:
        failed: dict[str, str] = {}
        with tempfile.TemporaryDirectory() as folder:
            model, images = build(name)
            if table == "tools":
                files, others = tools(model, images, Path(folder), failed)
            else:
                files, others = recipes(model, images, Path(folder)), {}
            report = benchmark(
                files, baseline=next(iter(files)), others=others, batches=batches, threads=threads, runs=runs, seconds=seconds
            )
        click.echo(f"{name}\n{report}")
        page.add(name, report.to_dict(), failed, " ".join(["python benchmarks/latency.py", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
