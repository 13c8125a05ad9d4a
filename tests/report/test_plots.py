"""Plots are svg of their own, with the report's texts in them, and the same for the same report."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree

import pytest

import qpass.report.plots as plots
from qpass.passes.allocate_bits import Allocated
from qpass.reconstruction.record import BlockRecord
from qpass.report.data import BlockRow, LayerRow, ReportData, TensorRow


def tensor(index: int, kind: str) -> TensorRow:
    name, path = f"t{index}_quantizer", f"blocks.{index}.a$b"
    return TensorRow(name, path, kind, "Uniform", 4, 0.1, 3.0, -1.0 - index, 1.0, 30.0, (1, 0, 5), (-1.0, 0.0, 0.5))


REPORT = ReportData(
    "M",
    {"name": "w4a4"},
    True,
    8,
    tuple(tensor(index, kind) for index in range(4) for kind in ("activation", "weight")),
    tuple(
        LayerRow(f"blocks.{index}.fc", kind, 4, (4,), 30.0 - index, part="AV" * (kind == "matmul"))
        for index, kind in enumerate(("linear", "matmul", "conv3d"))
    ),
    (BlockRow("blocks.0", 28.0), BlockRow("blocks.1", 20.0)),
    (),
    19.0,
    reconstruction=tuple(
        BlockRecord(f"blocks.{n}", 0.2, 0.1, 3, {f"blocks.{n}.fc": 2 + n, f"blocks.{n}.qkv": 4}) for n in range(2)
    ),
    allocation=tuple(
        Allocated(f"blocks.{n}", kind, 4 + 4 * n, 10, {4: 0.1, 8: 0.01}) for n in range(2) for kind in ("activation", "weight")
    ),
)

PLOTS: dict[str, tuple[Callable[..., str], object, list[str]]] = {
    "errors": (
        plots.error_by_depth,
        REPORT,
        ["linear", "matmul", "conv3d", "block output", "blocks.1.fc · AV (matmul): 29.0 dB"],
    ),
    "ranges": (plots.ranges_by_depth, REPORT, ["blocks.3.a$b: t3: values -4 to 1, covered -1 to 0.5"]),
    "bits": (plots.bit_widths_by_depth, REPORT, ["4 bits", "8 bits", "blocks.1: 8 bits; error 0.1 at 4 bits"]),
    "ranks": (plots.ranks_by_depth, REPORT, ["fc", "qkv", "blocks.1", "blocks.1.fc: rank 3"]),
    "learned": (plots.errors_of_blocks, REPORT, ["blocks.0: 0.2000 as calibrated, 0.1000 learned"]),
    "histograms": (plots.histograms, REPORT.tensors, ["Uniform, 4 bits, 30.0 dB", "blocks.3.a$b", "3 levels from -1 to 0.5"]),
}


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_is_svg_with_its_texts_and_names(name: str) -> None:
    draw, given, texts = PLOTS[name]
    text = draw(given)
    root = ElementTree.fromstring(f"<div>{text.replace('<br>', '')}</div>")
    assert root.iter("{http://www.w3.org/2000/svg}svg")
    words = " | ".join("".join(element.itertext()) for element in root.iter())
    assert all(each in words for each in texts), words
    assert draw(given) == text


def test_a_point_is_drawn_for_each_layer() -> None:
    layers = [LayerRow(f"l{n}", "linear", 4, (4,), 10.0 * n) for n in range(3)]
    data = ReportData("M", {"name": "x"}, True, 8, (), tuple(layers), (), (), 1.0)
    points = re.findall(r'cx="([\d.]+)" cy="([\d.]+)" r="[\d.]+" class="dot blue"', plots.error_by_depth(data))
    heights = [float(y) for _, y in points]
    assert len(heights) == 3
    assert heights[0] > heights[1] > heights[2], "a larger ratio is higher up"
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)


def test_few_levels_are_ticks_and_many_a_strip() -> None:
    row = tensor(0, "activation")
    assert plots.histogram(row).count('class="tick"') == 3
    many = replace(row, levels=tuple(2.0 ** -(n / 16) for n in range(256)))
    text = plots.histogram(many)
    assert "256 levels from 1.59e-05 to 1" in text
    strips = [float(shade) for shade in re.findall(r'class="box tick" opacity="([\d.]+)"', text)]
    assert 1 < len(strips) <= plots.SHOWN_LEVELS
    assert strips[0] == 1.0, "most levels of a logarithm are near 0"
    assert strips[-1] == 0.1
    even = plots.histogram(replace(row, levels=tuple(n / 256 for n in range(256))))
    shades = [float(shade) for shade in re.findall(r'class="box tick" opacity="([\d.]+)"', even)]
    assert shades == pytest.approx([0.35] * plots.SHOWN_LEVELS, abs=0.05), "equal steps are no black bar"


def test_bins_are_drawn_where_their_values_are() -> None:
    row = replace(tensor(0, "weight"), low=-2.0, high=2.0, levels=(-1.0, 1.0), histogram=(0, 10, 10, 0))
    boxes = re.findall(r'x="([\d.]+)" y="[\d.]+" width="([\d.]+)" height="[\d.]+" class="box (\w+)"', plots.histogram(row))
    (covered,) = [(float(x), float(width)) for x, width, kind in boxes if kind == "covered"]
    bars = [(float(x), float(width)) for x, width, kind in boxes if kind == "pink"]
    assert len(bars) == 2
    assert bars[0][0] == pytest.approx(covered[0], abs=0.2)
    assert bars[1][0] + bars[1][1] == pytest.approx(sum(covered), abs=0.2)
