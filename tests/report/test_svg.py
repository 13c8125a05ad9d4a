"""Scales and charts: places, round numbers, texts that stay texts."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from qpass.report.svg import Chart, Scale, legend


def test_scales_are_linear_in_their_own_measure() -> None:
    assert [Scale(0, 10)(value) for value in (0, 5, 10, 20, -3)] == [0, 0.5, 1, 1, 0]
    assert [Scale(0, 2, "log")(value) for value in (1, 10, 100, 0)] == pytest.approx([0, 0.5, 1, 0])
    assert [Scale(-3, 3, "symlog")(value) for value in (-100, -1, 0, 1, 100)] == pytest.approx([0, 1 / 3, 0.5, 2 / 3, 1])


def test_labels_are_round_and_inside() -> None:
    assert Scale(0.3, 9.7).ticks() == [2, 4, 6, 8]
    assert Scale(-1.1, 2.2, "log").ticks() == pytest.approx([0.1, 1, 10, 100])
    assert Scale(0.1, 0.8, "log").ticks() == pytest.approx([2, 5])
    assert Scale(-2.5, 3, "symlog").ticks() == [-10, -1, 0, 1, 10, 100]


@pytest.mark.parametrize("kind", ["linear", "log", "symlog"])
@pytest.mark.parametrize("values", [[], [0.0], [1e17, 1e17], [-1e308, 1e308], [1e-320, 1.0], [math.nan, math.inf, -math.inf]])
def test_any_values_have_a_scale(kind: str, values: list[float]) -> None:
    for scale in (Scale.over(values, kind), Scale.from_zero(values)):
        assert all(0 <= scale(value) <= 1 for value in [*values, 0.0, 1.0])
        assert len(scale.ticks()) <= 16


def test_a_chart_is_xml_and_shows_names_as_they_are() -> None:
    hostile = '</title></svg><script>&"'
    chart = Chart(Scale(0, 2), Scale(0, 1), height=100)
    chart.axes(hostile, hostile, names=["a", hostile * 9, "b"])
    chart.point(1, 0.5, "blue", hostile)
    chart.span(1, 0, 1, "grey", hostile)
    chart.box(0, 1, 0, 1, "grey", hostile, opacity=0.5)
    chart.line([(0, 0), (2, 1)], "dark")
    root = ElementTree.fromstring(chart.svg(hostile))
    assert [each.text for each in root.iter("{http://www.w3.org/2000/svg}title")] == [hostile] * 3
    assert "<script>" not in chart.svg(hostile)


def test_points_lie_where_their_values_are() -> None:
    chart = Chart(Scale(0, 10), Scale(0, 10), height=200, width=300)
    assert chart.at(0, 0) == (chart.left, 200 - chart.bottom)
    assert chart.at(5, 10)[0] == pytest.approx((chart.at(0, 0)[0] + chart.at(10, 0)[0]) / 2)
    assert chart.at(0, 10)[1] < chart.at(0, 5)[1]


def test_legends_are_escaped() -> None:
    assert "&lt;b&gt;" in legend([("blue", "<b>")])
