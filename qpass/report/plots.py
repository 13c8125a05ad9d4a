"""The report's plots, as SVG text for one standalone page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np

from qpass.graph.edit import is_inside
from qpass.report.data import ReportData, TensorRow

matplotlib.use("svg")

import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, NullFormatter

#: Colour of each kind of layer or tensor, also for the colour-blind (Okabe and Ito).
COLOURS = {
    "linear": "#0072B2",
    "matmul": "#D55E00",
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), "#009E73"),
    "activation": "#0072B2",
    "weight": "#CC79A7",
    "output": "#009E73",
}
_MARKERS = {"activation": "o", "weight": "s"}
#: Settings of all plots.
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "font.size": 9,
    "text.parse_math": False,  # a $ in a path is literal
    "svg.fonttype": "none",
    "svg.hashsalt": "qpass",
}


def error_by_depth(report: ReportData) -> str:
    """SQNR of each layer's output in order of execution, blocks as a line over them."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(9.5, 3.4), layout="constrained")
        for kind in report.counts:
            points = [(i, row.sqnr_db) for i, row in enumerate(report.layers) if row.kind == kind]
            axes.scatter(*zip(*points, strict=True), s=16, label=kind, color=COLOURS.get(kind, "#555555"))
        ends = [
            (max((i for i, row in enumerate(report.layers) if is_inside(row.path, block.path)), default=0), block.sqnr_db)
            for block in report.blocks
        ]
        if ends:
            axes.plot(*zip(*ends, strict=True), color="#333333", lw=1.2, marker="_", label="block output")
        axes.set(xlabel="layer, in order of execution", ylabel="SQNR of the output, dB")
        axes.legend(frameon=False, ncols=4, loc="lower right", bbox_to_anchor=(1, 1))
        return svg(figure)


def ranges_by_depth(report: ReportData) -> str:
    """Range of each activation's values, and the range that its codes cover."""
    rows = [row for row in report.tensors if row.kind == "activation"]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(9.5, 3.4), layout="constrained")
        x = np.arange(len(rows))
        axes.vlines(x, [r.low for r in rows], [r.high for r in rows], color="#bbbbbb", lw=3, label="values on the sample")
        covered = [(min(r.levels), max(r.levels)) for r in rows]
        axes.vlines(x, *zip(*covered, strict=True), color=COLOURS["activation"], lw=1.4, label="covered by codes")
        logarithmic(axes, "symlog", linthresh=1.0)
        axes.set(xlabel="activation, in order of execution", ylabel="value (linear below 1)")
        axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
        return svg(figure)


def errors_of_blocks(report: ReportData) -> str:
    """Error of each block's output before and after it was learned, in order."""
    rows = report.reconstruction
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(9.5, 2.6), layout="constrained")
        x = np.arange(len(rows))
        axes.bar(x - 0.2, [row.error_before for row in rows], 0.38, color="#bbbbbb", label="as calibrated")
        axes.bar(x + 0.2, [row.error_after for row in rows], 0.38, color=COLOURS["activation"], label="learned")
        axes.set_xticks(
            x, [row.label for row in rows], rotation=45 if len(rows) > 8 else 0, ha="right" if len(rows) > 8 else "center"
        )
        axes.set(ylabel="error, share of the output")
        axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
        return svg(figure)


def bit_widths_by_depth(report: ReportData) -> str:
    """Output error from each tensor at the smallest bit width tried, coloured by its assigned bit width."""
    kinds = {kind: [row for row in report.allocation if row.kind == kind and len(row.errors) > 1] for kind in _MARKERS}
    kinds = {kind: rows for kind, rows in kinds.items() if rows}
    bit_widths = sorted({row.bits for rows in kinds.values() for row in rows})
    colours = dict(zip(bit_widths, plt.colormaps["viridis"](np.linspace(0, 0.9, len(bit_widths))), strict=True))
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(len(kinds), figsize=(9.5, 2.9 * len(kinds)), layout="constrained", squeeze=False)
        for axes, (kind, rows) in zip(panels.flat, kinds.items(), strict=True):
            for bits in bit_widths:
                points = [(i, row.errors[min(row.errors)]) for i, row in enumerate(rows) if row.bits == bits]
                if points:
                    axes.scatter(
                        *zip(*points, strict=True), s=18, marker=_MARKERS[kind], color=colours[bits], label=f"{bits} bits"
                    )
            logarithmic(axes, "log")
            axes.set(xlabel=f"{kind}, in order of execution", ylabel=f"error at {min(rows[0].errors)} bits, share of output")
            axes.legend(frameon=False, ncols=len(bit_widths), loc="lower right", bbox_to_anchor=(1, 1))
        return svg(figure)


def ranks_by_depth(report: ReportData) -> str:
    """The chosen rank of each compensated Linear: blocks from left to right, their Linears side by side."""
    kinds: dict[str, list[tuple[float, int]]] = {}
    for index, row in enumerate(report.reconstruction):
        for place, (path, rank) in enumerate(row.ranks.items()):
            beside = 0.12 * (place - (len(row.ranks) - 1) / 2)  # equal ranks would hide each other
            kinds.setdefault(path.removeprefix(f"{row.path}."), []).append((index + beside, rank))
    with plt.rc_context({**STYLE, "axes.prop_cycle": plt.cycler(color=["#0072B2", "#D55E00", "#009E73", "#CC79A7"])}):
        figure, axes = plt.subplots(figsize=(9.5, 2.6), layout="constrained")
        for kind, points in kinds.items():
            axes.plot(*zip(*points, strict=True), marker="o", ms=5, lw=0.5, label=kind)
        axes.set_xticks(range(len(report.reconstruction)), [row.path for row in report.reconstruction], rotation=45)
        chosen = {rank for row in report.reconstruction for rank in row.ranks.values()}
        axes.set_yticks(sorted(chosen))
        axes.set(ylabel="rank", ylim=(0, 1.1 * max(chosen, default=1)))
        axes.legend(frameon=False, ncols=4, loc="lower right", bbox_to_anchor=(1, 1))
        return svg(figure)


def histograms(rows: Sequence[TensorRow]) -> str:
    """Histogram of each tensor, with the levels of its quantizer as ticks below."""
    columns = 3
    lines = -(-len(rows) // columns)
    with plt.rc_context({**STYLE, "font.size": 8}):
        figure, grid = plt.subplots(lines, columns, figsize=(9.5, 1.9 * lines), layout="constrained", squeeze=False)
        for axes, row in zip(grid.flat, rows, strict=False):
            edges = np.linspace(row.low, row.high, len(row.histogram) + 1)
            axes.stairs(row.histogram, edges, fill=True, color=COLOURS[row.kind], alpha=0.75)
            logarithmic(axes, "log")
            axes.plot(row.levels, np.zeros(len(row.levels)), "|", color="#111111", ms=6, transform=axes.get_xaxis_transform())
            axes.set_title(f"{_title(row)}\n{row.quantizer}, {row.bits} bits, {row.sqnr_db:.1f} dB", fontsize=8)
            axes.set_xlim(min(row.low, *row.levels), max(row.high, *row.levels))
        for axes in grid.flat[len(rows) :]:
            axes.set_visible(False)
        return svg(figure)


def _title(row: TensorRow) -> str:
    """Names a tensor: several in one module differ in the name of the node."""
    name = row.name.removesuffix("_quantizer")
    return f"{row.path}: {name}" if row.path and row.kind != "weight" else row.path or name


def logarithmic(axes: Any, scale: str, *, axis: str = "y", **options: Any) -> None:
    """Sets a logarithmic axis with plain numbers; matplotlib's own labels are mathematical text."""
    getattr(axes, f"set_{axis}scale")(scale, **options)
    numbers = getattr(axes, f"{axis}axis")
    numbers.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    numbers.set_minor_formatter(NullFormatter())


def svg(figure: Any) -> str:
    """Returns a figure as SVG text and closes it."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
