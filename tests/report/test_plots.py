"""Plots are svg of their own, with the report's texts in them, and the same for the same report."""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.etree import ElementTree

import matplotlib.pyplot as plt
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
        LayerRow(f"blocks.{index}.fc", kind, 4, (4,), 30.0 - index) for index, kind in enumerate(("linear", "matmul", "conv3d"))
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
    "errors": (plots.error_by_depth, REPORT, ["linear", "matmul", "conv3d", "block output"]),
    "ranges": (plots.ranges_by_depth, REPORT, []),
    "bits": (plots.bit_widths_by_depth, REPORT, ["4 bits", "8 bits"]),
    "ranks": (plots.ranks_by_depth, REPORT, ["fc", "qkv", "blocks.1"]),
    "learned": (plots.errors_of_blocks, REPORT, []),
    "histograms": (plots.histograms, REPORT.tensors, ["Uniform, 4 bits, 30.0 dB", "blocks.3.a$b"]),
}


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_is_one_svg_with_its_texts(name: str) -> None:
    draw, given, texts = PLOTS[name]
    text = draw(given)
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    words = " | ".join("".join(element.itertext()) for element in root.iter() if element.tag.endswith("text"))
    assert all(each in words for each in texts), words
    assert draw(given) == text
    assert plt.get_fignums() == []


def test_a_point_is_drawn_for_each_layer() -> None:
    layers = [LayerRow(f"l{n}", "linear", 4, (4,), 10.0 * n) for n in range(3)]
    data = ReportData("M", {"name": "x"}, True, 8, (), tuple(layers), (), (), 1.0)
    points = re.findall(r'<use xlink:href="#\w+" x="([\d.]+)" y="([\d.]+)" style="fill: #0072b2', plots.error_by_depth(data))
    heights = [float(y) for _, y in points[:3]]
    assert heights[0] > heights[1] > heights[2], "a larger ratio is higher up"
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], rel=1e-3)
