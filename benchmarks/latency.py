"""Times qpass's files in alternation: against other runtimes and quantizers, or recipes against each other.

Run: python benchmarks/latency.py [--table tools|recipes] [--models deit_tiny_patch16_224 ...] [--runs 30]
Writes: benchmarks/results/latency.json, .csv, .md and .svg, or latency_recipes.*; models of earlier runs are kept.
Needs: pip install -e ".[bench]"; what is not installed or fails on a model is listed with its reason.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import matplotlib
import matplotlib.pyplot as plt
from contenders import float_runtimes, openvino_contender, ort_dynamic, ort_static
from latency_models import MODELS, build
from torch import Tensor, nn

import qpass
from qpass.backends.onnx_qdq import export_float
from qpass.backends.onnxruntime.latency import Contender, benchmark
from qpass.trace import trace

RESULTS = Path(__file__).parent / "results"
#: qpass's files beside other tools, by label: recipe and target.
FILES = {
    "qpass w8a8": ("w8a8", "onnxruntime"),
    "qpass w8a8, contrib": ("w8a8", "onnxruntime-contrib"),
    "qpass w4a4": ("w4a4", "onnxruntime"),
    "qpass w3a3": ("w3a3", "onnxruntime"),
}
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
#: What qpass is asked to beat: everything else that runs in onnxruntime. OpenVINO is another runtime, and shown beside it.
RIVALS = ("float", "ort quantize_static", "ort quantize_dynamic")


def tools(
    model: nn.Module, images: Tensor, folder: Path, failed: dict[str, str]
) -> tuple[dict[str, Path], dict[str, Contender]]:
    """Makes the files and contenders of one model; notes what fails."""
    files = {"float": export_float(trace(model, (images,)), folder / "float.onnx")}
    graphs = {recipe: qpass.quantize_graph(model, [images], recipe) for recipe in dict.fromkeys(r for r, _ in FILES.values())}
    for index, (label, (recipe, target)) in enumerate(FILES.items()):
        files[label] = qpass.export_onnx(graphs[recipe], folder / f"qpass{index}.onnx", target=target)
    for label, make in (("ort quantize_static", ort_static), ("ort quantize_dynamic", ort_dynamic)):
        with _noting(failed, label):
            files[label] = make(files["float"], images, folder / f"{label.split()[-1]}.onnx")
    others: dict[str, Contender] = {}
    shaped = qpass.export_onnx(graphs["w8a8"], folder / "openvino.onnx", target="openvino")
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


class Page:
    """The results of one table: one file of figures, and what is written from it."""

    def __init__(self, name: str, baseline: str) -> None:
        self.path, self.baseline = RESULTS / f"{name}.json", baseline
        self.models: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}

    def add(self, model: str, report: dict[str, Any], failed: dict[str, str]) -> None:
        """Replaces one model's figures."""
        command = " ".join(["python benchmarks/latency.py", *sys.argv[1:]])
        self.models[model] = {**report, "failed": failed, "command": command}
        self.write()

    def write(self) -> None:
        """Writes figures, page, table and picture."""
        RESULTS.mkdir(exist_ok=True)
        self.path.write_text(json.dumps(self.models, indent=1) + "\n", encoding="utf-8")
        self.path.with_suffix(".md").write_text("\n".join(self.lines()) + "\n", encoding="utf-8")
        with self.path.with_suffix(".csv").open("w", newline="", encoding="utf-8") as stream:
            table = csv.DictWriter(
                stream, ["model", "name", "batch", "threads", "median_ms", "spread", "speedup", "peak_share"]
            )
            table.writeheader()
            table.writerows({"model": model, **row} for model, found in self.models.items() for row in found["rows"])
        plot(self.models, self.path.with_suffix(".svg"))

    def lines(self) -> Iterator[str]:
        """Yields the lines of the page."""
        yield "# Latency"
        yield ""
        yield f"Speed-up over {self.baseline}, everything of a cell timed in alternation: medians, and the interquartile range over the median."
        yield "'Of peak' is integer operations a second over what one large uint8 times int8 product does on the same machine. Random"
        yield "weights: speed only."
        yield f"\n![Speed-ups]({self.path.stem}.svg)"
        for model, found in self.models.items():
            yield f"\n## {model}\n\nWritten by `{found['command']}` on {found['machine']}.\n"
            yield from speed_table(found["rows"])
            yield "\n| file | MB | of float | loads in, over float | memory, over float | integer arithmetic | products |"
            yield "|---|---|---|---|---|---|---|"
            yield from file_rows(found)
            for label, reason in found["failed"].items():
                yield f"\n{label} does not run: {reason}"
        if self.baseline == "float onnxruntime":
            yield "\n## Where qpass loses\n"
            yield from losses(self.models) or ["Nowhere in onnxruntime."]


def speed_table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yields one line for each file, and one column for each setting."""
    settings = list(dict.fromkeys((row["batch"], row["threads"]) for row in rows))
    yield (
        "| | "
        + " | ".join(f"batch {batch}, {threads} thread{'s' * (threads > 1)} | spread | of peak" for batch, threads in settings)
        + " |"
    )
    yield "|---" * (1 + 3 * len(settings)) + "|"
    for name in dict.fromkeys(row["name"] for row in rows):
        cells = [next(r for r in rows if r["name"] == name and (r["batch"], r["threads"]) == setting) for setting in settings]
        shares = [f"{cell['peak_share']:.0%}" if cell["peak_share"] else "" for cell in cells]
        columns = [f"{cell['speedup']:.2f} | {cell['spread']:.0%} | {share}" for cell, share in zip(cells, shares, strict=True)]
        yield f"| {name} | " + " | ".join(columns) + " |"


def file_rows(found: dict[str, Any]) -> Iterator[str]:
    """Yields size, time to load, memory, and what fused, of each file of onnxruntime's."""
    footprints = found["footprints"]
    base = next(iter(footprints.values()))
    for name, cost in footprints.items():
        ratios = " | ".join(f"{cost[key] / base[key]:.2f}" for key in ("load_ms", "peak_mb"))
        fusion = found["fusion"].get(name)
        share = f"{fusion['integer_arithmetic']:.1%}" if fusion else ""
        counts = {**fusion["integer"], **fusion["float"]} if fusion else {}
        products = ", ".join(f"{count} {operator}" for operator, count in counts.items())
        unfused = f"; {len(fusion['unfused'])} pairs unfused" if fusion and fusion["unfused"] else ""
        yield f"| {name} | {cost['size_mb']:.2f} | {cost['size_mb'] / base['size_mb']:.1%} | {ratios} | {share} | {products}{unfused} |"


def losses(models: dict[str, Any]) -> list[str]:
    """Returns a line for every cell in which another file of onnxruntime's beats qpass's w8a8, or a narrower recipe is slower."""
    found = []
    for model, figures in models.items():
        cells = {(row["name"], row["batch"], row["threads"]): row["speedup"] for row in figures["rows"]}
        for (name, batch, threads), speedup in cells.items():
            ours = cells["qpass w8a8", batch, threads]
            where = f"- {model}, batch {batch}, {threads} thread{'s' * (threads > 1)}"
            if name in RIVALS and speedup > ours:
                found.append(f"{where}: {name} {speedup:.2f}, qpass w8a8 {ours:.2f}")
            if name in ("qpass w4a4", "qpass w3a3") and speedup < 0.95 * ours:
                found.append(f"{where}: {name} {speedup:.2f} is more than 5 % slower than qpass w8a8 {ours:.2f}")
    return found


def plot(models: dict[str, Any], path: Path) -> None:
    """Draws the speed-ups at the first setting of each model."""
    matplotlib.use("svg")
    plt.rcParams.update({"svg.hashsalt": "qpass", "svg.fonttype": "none"})
    figure, axes = plt.subplots(len(models), 1, figsize=(8, 0.6 + 2.9 * len(models)), squeeze=False, layout="constrained")
    for axis, (model, found) in zip(axes[:, 0], models.items(), strict=True):
        first = found["rows"][0]
        rows = [row for row in found["rows"] if (row["batch"], row["threads"]) == (first["batch"], first["threads"])][::-1]
        colours = ["#2563eb" if row["name"].startswith("qpass") else "#94a3b8" for row in rows]
        bars = axis.barh([row["name"] for row in rows], [row["speedup"] for row in rows], color=colours)
        axis.bar_label(bars, [f"{row['speedup']:.2f}" for row in rows], padding=3, fontsize=7)
        axis.axvline(1, color="#334155", linewidth=0.8)
        axis.set_title(f"{model}, batch {first['batch']}, {first['threads']} thread", fontsize=9, loc="left")
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.1)
    axes[-1, 0].set_xlabel(f"times the speed of {found['baseline']}", fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


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
    page = Page("latency", "float onnxruntime") if table == "tools" else Page("latency_recipes", "w4a4, a file of qpass")
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
        page.add(name, report.to_dict(), failed)


if __name__ == "__main__":
    main()
