"""Two reports side by side: figures, settings that differ, and the SQNR of every layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from qpass.report.bits import bit_widths
from qpass.report.data import LayerRow, ReportData
from qpass.report.html import fill
from qpass.report.matched import matched
from qpass.report.plots import with_legend
from qpass.report.svg import Chart, Scale
from qpass.report.tiles import file_sizes, tiles


@dataclass(frozen=True)
class LayerPair:
    """One layer in two reports.

    Attributes:
        label: Module path and part.
        kind: Kind of the layer.
        rows: Its row in each report; None where it is not quantized.
    """

    label: str
    kind: str
    rows: tuple[LayerRow | None, LayerRow | None]

    @property
    def bits(self) -> tuple[str, str]:
        """Bit widths in each report: of the weight and the input, or of both factors of a matmul."""
        first, second = map(_bits, self.rows)
        return first, second

    @property
    def gain(self) -> float:
        """SQNR of the second minus that of the first, in dB; NaN if one has none."""
        first, second = (math.nan if row is None else row.sqnr_db for row in self.rows)
        return second - first


def compare_page(reports: tuple[ReportData, ReportData], names: tuple[str, str]) -> str:
    """Returns one standalone page about two reports.

    Args:
        reports: The reports.
        names: What each is called: its folder.
    """
    pairs = layer_pairs(*reports)
    return fill(
        "compare.html",
        names=names,
        reports=reports,
        tiles=[tiles(report, name) for report, name in zip(reports, names, strict=True)],
        figures=list(figures(*reports)),
        settings=list(differing_settings(reports[0].config, reports[1].config)),
        warnings=list(unfair(*reports)),
        pairs=pairs,
        plot=_errors(pairs, names) if pairs else "",
    )


def layer_pairs(first: ReportData, second: ReportData) -> list[LayerPair]:
    """Returns the layers of both reports, matched by name, in the order of the first."""
    pairs = matched(first.layers, second.layers, lambda row: row.label)
    return [LayerPair(label, next(row.kind for row in rows if row), rows) for label, rows in pairs]


def differing_settings(first: Any, second: Any, place: str = "") -> Iterator[tuple[str, str, str]]:
    """Yields (setting, value in the first, value in the second) of each setting that differs."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for key in dict.fromkeys([*first, *second]):
            inner = f"{place}.{key}" if place else str(key)
            yield from differing_settings(first.get(key), second.get(key), inner)
    elif first != second:
        yield place, _text(first), _text(second)


def figures(first: ReportData, second: ReportData) -> Iterator[tuple[str, str, str]]:
    """Yields (name, figure of the first, figure of the second)."""
    rows = [_figures(report) for report in (first, second)]
    for name in dict.fromkeys([*rows[0], *rows[1]]):
        yield name, rows[0].get(name, ""), rows[1].get(name, "")


def speed_text(report: ReportData) -> str:
    """Returns the speed in the first setting that was measured, or that none was."""
    if not report.speed:
        return "not measured"
    first = min(report.speed, key=lambda speed: (speed.batch, speed.threads))
    return f"{first.speedup:.2f}x, batch {first.batch}, {first.threads} thread{'s' * (first.threads != 1)}"


def _figures(report: ReportData) -> dict[str, str]:
    found, sizes = report.agreement, file_sizes(report)
    return {
        "recipe": report.recipe,
        "top-1 class as float": "" if found is None else f"{found.same} of {found.samples}",
        "output, dB": f"{report.output_sqnr_db:.1f}",
        **({} if sizes is None else {f"{sizes[2]}, MB": f"{sizes[1] / 1e6:.2f}, {100 * sizes[1] / sizes[0]:.0f} % of float"}),
        "speed over float": speed_text(report),
        "verified": "not yet" if report.verified is None else "yes" if report.verified.passed else "NO",
        **{f"bits of {each.kind}s on average": f"{each.mean:.2f}" for each in bit_widths(report)},
        "quantized layers": str(len(report.layers)),
        "stayed float": str(len(report.stayed_float)),
        "calibration samples": str(report.calibration_samples or ""),
        "seed": "" if report.seed is None else str(report.seed),
        "file for": report.target,
        "exact on": report.processors,
    }


def unfair(first: ReportData, second: ReportData) -> Iterator[str]:
    """Yields what makes the comparison less than fair."""
    if first.model != second.model:
        yield f"The models differ ({first.model}, {second.model}): layers are matched by name."
    if first.samples != second.samples or first.seed != second.seed:
        yield "Errors were measured on different samples: small differences mean nothing."
    one, other = first.preview, second.preview
    if one and other and (one.lows, one.highs, one.means, one.stds) != (other.lows, other.highs, other.means, other.stds):
        yield "The calibration images or their preprocessing differ."


def _bits(row: LayerRow | None) -> str:
    if row is None:
        return "float"
    inputs = " / ".join(str(bits or "float") for bits in row.input_bits)
    return inputs if row.kind == "matmul" else f"{row.weight_bits or 'float'} x {inputs}"


def _text(value: Any) -> str:
    return "-" if value is None else str(value)


def _errors(pairs: list[LayerPair], names: tuple[str, str]) -> Markup:
    """Draws the SQNR of every layer in both."""
    values = [row.sqnr_db for pair in pairs for row in pair.rows if row is not None]
    chart = Chart(Scale.over(range(len(pairs)), margin=0.02), Scale.over(values), height=340)
    chart.axes("layer, in order of execution", "SQNR of the output, dB")
    for index, (name, colour) in enumerate(zip(names, ("blue", "orange"), strict=True)):
        points = [(place, row.sqnr_db) for place, pair in enumerate(pairs) if (row := pair.rows[index]) is not None]
        chart.line(points, colour)
        for place, value in points:
            chart.point(place, value, colour, f"{pairs[place].label}, {name}: {value:.1f} dB")
    return with_legend(chart, "SQNR of each layer in both", [("blue", names[0]), ("orange", names[1])])
