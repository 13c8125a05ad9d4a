"""Error of attention times V for each quantizer of the Softmax output, on DeiT-T, by block.

Run: python benchmarks/softmax_error.py
Writes: benchmarks/results/softmax_error.md, .csv and .svg. Quantizers are fitted on some training
images and measured on others.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import matplotlib.pyplot as plt
import torch
from accuracy_tasks import deit_tiny
from pictures import picture, save
from provenance import provenance_line

from qpass.config import SOFTMAX_PERCENTILES, QuantConfig
from qpass.data import ModelInputs
from qpass.graph.capture.trace import trace
from qpass.observers import ProductObserver
from qpass.passes import Annotate, Canonicalize
from qpass.passes.calibrate import Listener, fitted_by_product, listen
from qpass.quantizers import DynamicFocus, Log2, LogSqrt2, LookUp, Quantizer, ShiftLog2, Tan, Uniform

RESULTS = Path(__file__).parent / "results"
BITS = (3, 4, 6, 8)
#: Attention maps (images times heads) that quantizers are fitted on, as many to measure.
MAPS = 48


def quantizers(bits: int) -> dict[str, Quantizer]:
    """Returns one of each, unfitted."""
    return {
        "uniform": Uniform(bits, percentiles=SOFTMAX_PERCENTILES),
        "DFQ, snapped": DynamicFocus(bits, code_zero="snapped"),
        "DFQ, affine": DynamicFocus(bits, code_zero="affine"),
        "DFQ, zero": DynamicFocus(bits, code_zero="zero"),
        "log2": Log2(bits, percentiles=SOFTMAX_PERCENTILES),
        "log-sqrt2": LogSqrt2(bits, percentiles=SOFTMAX_PERCENTILES),
        "SULQ": ShiftLog2(bits, exponent_round=True),
        "SULQ, exponents not rounded": ShiftLog2(bits),
        "TanQ": Tan(bits),
    }


def observe() -> list[tuple[ProductObserver, ProductObserver]]:
    """Returns attention and V of each block, for fitting and for measuring."""
    task = deit_tiny()
    every = range(0, len(task.pool), 20)
    images = torch.stack([task.pool.load(i) for i in every])  # one of every twenty classes
    graph = trace(task.model, (images[:2],))
    Canonicalize()(graph)
    Annotate(QuantConfig.from_any("w8a8"))(graph)
    halves = []
    for part in (images[::2], images[1::2]):
        observers = {node: ProductObserver(node.name, samples=MAPS) for node in fitted_by_product(graph)}
        batches = [ModelInputs((batch,), {}) for batch in part.split(4)]
        listen(Listener(graph, [], observers), batches, "attention maps", show_progress=False)
        halves.append(list(observers.values()))
    return list(zip(*halves, strict=True))


def measure() -> list[dict[str, Any]]:
    """Returns a row for each quantizer, width and block; errors over the squared product."""
    rows: list[dict[str, Any]] = []
    for block, (fitting, measuring) in enumerate(observe()):
        maps = torch.cat([a.flatten() for a, _ in fitting.pairs])
        signal = sum((a @ b).double().square().sum().item() for a, b in measuring.pairs)
        for bits in BITS:
            for name, quantizer in quantizers(bits).items():
                quantizer.fit(maps, criterion=fitting.criterion())
                error = measuring.criterion()
                row = {"block": block, "bits": bits, "quantizer": name, "error": error(quantizer) / signal}
                if name.startswith(("log", "SULQ", "TanQ")):
                    row["error as a table"] = error(LookUp.of(quantizer)) / signal
                rows.append(row)
            click.echo(f"block {block}, {bits} bits: " + ", ".join(f"{r['quantizer']} {r['error']:.4f}" for r in rows[-9:]))
    return rows


def lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yields the page."""
    names = list(dict.fromkeys(row["quantizer"] for row in rows))
    blocks = sorted({row["block"] for row in rows})
    yield "# Quantizers of the Softmax output"
    yield ""
    yield "Written by `python benchmarks/softmax_error.py`: squared error of attention times V over the squared product, in percent, on real"
    yield f"attention maps of DeiT-T. Every quantizer is fitted by that error on {MAPS} maps of training images, and measured on {MAPS} of"
    yield "others. 'As a table' is the deployed form of what is not uniform, whose thresholds lie on edges of 256 cells."
    yield ""
    yield provenance_line()
    yield ""
    yield "![Error by block](softmax_error.svg)"
    for bits in sorted({row["bits"] for row in rows}):
        yield f"\n## {bits} bits\n"
        yield f"| quantizer | {' | '.join(f'block {b}' for b in blocks)} | geometric mean | as a table |"
        yield "|---" * (len(blocks) + 3) + "|"
        for name in names:
            found = [row for row in rows if row["quantizer"] == name and row["bits"] == bits]
            errors = [100 * row["error"] for row in found]
            tables = [100 * row["error as a table"] for row in found if row.get("error as a table")]
            last = f"{statistics.geometric_mean(tables):.3g}" if tables else ""
            yield f"| {name} | {' | '.join(f'{e:.3g}' for e in errors)} | {statistics.geometric_mean(errors):.3g} | {last} |"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draws error by block, one panel a width."""
    figure, axes = picture(2, 2, figsize=(9, 6.4), sharex=True)
    names = list(dict.fromkeys(row["quantizer"] for row in rows))
    for panel, bits in zip(axes.flat, BITS, strict=True):
        for index, name in enumerate(names):
            errors = [100 * r["error"] for r in rows if r["quantizer"] == name and r["bits"] == bits]
            panel.plot(errors, marker="o", ms=3, lw=1.2, color=plt.get_cmap("tab10")(index), label=name)
        panel.set(title=f"{bits} bits", yscale="log", ylabel="error of attention times V, %")
        panel.title.set_fontsize(9)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in axes[-1]:
        panel.set(xlabel="block")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    save(figure, path)


def main() -> None:
    """Measure and write the page."""
    rows = measure()
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "softmax_error.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["block", "bits", "quantizer", "error", "error as a table"])
        table.writeheader()
        table.writerows(rows)
    (RESULTS / "softmax_error.md").write_text("\n".join(lines(rows)) + "\n", encoding="utf-8")
    plot(rows, RESULTS / "softmax_error.svg")


if __name__ == "__main__":
    main()
