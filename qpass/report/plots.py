"""The report's charts, as SVG text with their legends."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from qpass.graph.edit import is_inside
from qpass.report.data import ReportData, TensorRow
from qpass.report.svg import Chart, Scale, legend

#: Class of each kind of mark; the style sheet gives it a colour.
KINDS = {
    "linear": "blue",
    "matmul": "orange",
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), "green"),
    "activation": "blue",
    "weight": "pink",
    "output": "green",
}
_IN_ORDER = ("blue", "orange", "green", "pink", "sky", "yellow", "grey", "dark")
#: More levels than these are shown as a strip that is darker where they are denser.
SHOWN_LEVELS = 32
#: Opacity of the strip where levels are as dense as on average: equal steps are an even grey.
_EVEN = 0.35


def error_by_depth(report: ReportData) -> Markup:
    """SQNR of each layer's output in order of execution, blocks as a line over them."""
    rows = report.layers
    chart = Chart(Scale.over(range(len(rows)), margin=0.02), _decibels(rows, report.blocks), height=320)
    chart.axes("layer, in order of execution", "SQNR of the output, dB")
    ends = [
        (max((i for i, row in enumerate(rows) if is_inside(row.path, block.path)), default=0), block.sqnr_db)
        for block in report.blocks
    ]
    if ends:
        chart.line(ends, "dark")
        for (place, value), block in zip(ends, report.blocks, strict=True):
            chart.point(place, value, "dark", f"output of {block.path or '(model)'}: {value:.1f} dB")
    for place, row in enumerate(rows):
        chart.point(place, row.sqnr_db, KINDS.get(row.kind, "grey"), f"{row.label} ({row.kind}): {row.sqnr_db:.1f} dB")
    kinds = [(KINDS.get(kind, "grey"), kind) for kind in report.counts]
    return with_legend(chart, "SQNR of each layer by depth", [*kinds, *([("dark", "block output")] if ends else [])])


def ranges_by_depth(report: ReportData) -> Markup:
    """Range of each activation's values, and the range that its codes cover."""
    rows = [row for row in report.tensors if row.kind == "activation"]
    ends = [value for row in rows for value in (row.low, row.high, min(row.levels), max(row.levels))]
    chart = Chart(Scale.over(range(len(rows)), margin=0.02), Scale.over(ends, "symlog"), height=320)
    chart.axes("activation, in order of execution", "value (linear below 1)")
    wide = min(7.0, max(2.0, 600 / max(len(rows), 1)))
    for place, row in enumerate(rows):
        low, high = min(row.levels), max(row.levels)
        said = f"{row.label}: values {row.low:.3g} to {row.high:.3g}, covered {low:.3g} to {high:.3g}"
        chart.span(place, row.low, row.high, "grey", said, width=wide)
        chart.span(place, low, high, "blue", said, width=wide / 2.4)
    return with_legend(chart, "Ranges by depth", [("grey", "values on the sample"), ("blue", "covered by codes")])


def errors_of_blocks(report: ReportData) -> Markup:
    """Error of each block's output before and after it was learned, in order."""
    rows = report.reconstruction
    errors = Scale.from_zero(error for row in rows for error in (row.error_before, row.error_after))
    chart = Chart(Scale(-0.6, len(rows) - 0.4), errors, height=260)
    chart.axes("block, in order of execution", "error, share of the output", names=[row.label for row in rows])
    for place, row in enumerate(rows):
        said = f"{row.label}: {row.error_before:.4f} as calibrated, {row.error_after:.4f} learned"
        chart.box(place - 0.38, place - 0.02, 0, row.error_before, "grey", said)
        chart.box(place + 0.02, place + 0.38, 0, row.error_after, "blue", said)
    return with_legend(chart, "Errors of learned blocks", [("grey", "as calibrated"), ("blue", "learned")])


def bit_widths_by_depth(report: ReportData) -> Markup:
    """Output error from each tensor at the smallest bit width tried, coloured by its assigned bit width."""
    kinds = {kind: [row for row in report.allocation if row.kind == kind and len(row.errors) > 1] for kind in KINDS}
    drawn = []
    for kind, rows in kinds.items():
        if not rows:
            continue
        bit_widths = sorted({row.bits for row in rows})
        colours = {bits: _IN_ORDER[place % len(_IN_ORDER)] for place, bits in enumerate(bit_widths)}
        errors = [row.errors[min(row.errors)] for row in rows]
        chart = Chart(Scale.over(range(len(rows)), margin=0.02), Scale.over(errors, "log"), height=280)
        chart.axes(f"{kind}, in order of execution", f"error at {min(rows[0].errors)} bits, share of output")
        for place, (row, error) in enumerate(zip(rows, errors, strict=True)):
            said = f"{row.path or '(model)'}: {row.bits} bits; error {error:.2g} at {min(row.errors)} bits"
            chart.point(place, error, colours[row.bits], said)
        drawn.append(with_legend(chart, f"Bit widths: {kind}", [(colours[bits], f"{bits} bits") for bits in bit_widths]))
    return Markup("").join(drawn)


def ranks_by_depth(report: ReportData) -> Markup:
    """The chosen rank of each compensated Linear: blocks from left to right, their Linears side by side."""
    kinds: dict[str, list[tuple[float, int, str]]] = {}
    for index, row in enumerate(report.reconstruction):
        for place, (path, rank) in enumerate(row.ranks.items()):
            beside = 0.12 * (place - (len(row.ranks) - 1) / 2)  # equal ranks would hide each other
            kinds.setdefault(path.removeprefix(f"{row.path}."), []).append((index + beside, rank, path))
    ranks = Scale.from_zero(rank for points in kinds.values() for _, rank, _ in points)
    chart = Chart(Scale(-0.6, len(report.reconstruction) - 0.4), ranks, height=260)
    chart.axes("block, in order of execution", "rank", names=[row.label for row in report.reconstruction])
    colours = {kind: _IN_ORDER[place % len(_IN_ORDER)] for place, kind in enumerate(kinds)}
    for kind, points in kinds.items():
        chart.line([(x, rank) for x, rank, _ in points], colours[kind])
        for x, rank, path in points:
            chart.point(x, rank, colours[kind], f"{path}: rank {rank}")
    return with_legend(chart, "Ranks of compensated Linears", [(colour, kind) for kind, colour in colours.items()])


def histograms(rows: Sequence[TensorRow]) -> Markup:
    """Histogram of each tensor, with the covered range and the levels of its quantizer below."""
    return Markup('<div class="grid">{}</div>').format(Markup("").join(map(histogram, rows)))


def histogram(row: TensorRow) -> Markup:
    """Counts of values on a logarithmic scale; below, ticks of few levels or the density of many."""
    low, high = min(row.levels), max(row.levels)
    counts = Scale(-0.25, _above(row.histogram), "log")
    ends = Scale.over([row.low, row.high, low, high], margin=0.02)
    chart = Chart(ends, counts, height=150, width=310, left=14, bottom=46)
    floor = 10.0**counts.low
    chart.box(low, high, floor, 10.0**counts.high, "covered", f"codes cover {low:.4g} to {high:.4g}")
    step = (row.high - row.low) / max(len(row.histogram), 1)
    for place, count in enumerate(row.histogram):
        left = row.low + place * step
        if count:
            chart.box(left, left + step, floor, count, KINDS[row.kind], f"{left:.3g} to {left + step:.3g}: {count}")
    _levels(chart, row)
    base = chart.height - chart.bottom
    for value, anchor in ((min(row.low, low), "start"), (max(row.high, high), "end")):
        chart.text(chart.at(value, floor)[0], base + 25, f"{value:.3g}", anchor=anchor)
    chart.text(chart.width / 2, chart.height - 7, f"{_count_of_levels(row)} from {low:.3g} to {high:.3g}")
    text = f"{row.quantizer}, {row.bits} bits, {row.sqnr_db:.1f} dB"
    caption = Markup("<figcaption><b>{}</b><br>{}</figcaption>").format(row.label, text)
    return Markup("<figure>{}{}</figure>").format(caption, chart.svg(f"Histogram of {row.label}"))


def _count_of_levels(row: TensorRow) -> str:
    return f"{len(row.levels)} level{'s' * (len(row.levels) != 1)}"


def _levels(chart: Chart, row: TensorRow) -> None:
    """Draws the levels below the axis: a tick each, or the density of many."""
    base = chart.height - chart.bottom
    places = [chart.at(level, 1)[0] for level in row.levels]
    if len(places) <= SHOWN_LEVELS:
        chart.draw("".join(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{base + 2}" y2="{base + 11}" class="tick"/>' for x in places))
        return
    first, width = min(places), max((max(places) - min(places)) / SHOWN_LEVELS, 0.1)
    counts = [0] * SHOWN_LEVELS
    for x in places:
        counts[min(SHOWN_LEVELS - 1, int((x - first) / width))] += 1
    for index, count in enumerate(counts):
        if count:
            where = f'x="{first + index * width:.2f}" y="{base + 2}" width="{width:.2f}" height="9"'
            shade = min(1.0, max(0.1, _EVEN * count * SHOWN_LEVELS / len(places)))
            chart.draw(f'<rect {where} class="box tick" opacity="{shade:.2f}"/>')


def _above(histogram: Sequence[int]) -> float:
    """Returns the exponent above the largest count."""
    return Scale.over([1.0, *map(float, histogram)], "log").high


def _decibels(*rows: Sequence[object]) -> Scale:
    return Scale.over(row.sqnr_db for group in rows for row in group)  # type: ignore[attr-defined]


def with_legend(chart: Chart, label: str, entries: Sequence[tuple[str, str]]) -> Markup:
    """Returns a chart below its legend, in a figure."""
    unique = list(dict.fromkeys(entries))
    return Markup('<figure class="chart">{}<div class="wide">{}</div></figure>').format(legend(unique), chart.svg(label))
