"""Two reports on one page."""

from __future__ import annotations

import html
from dataclasses import replace

import pytest
from torch import fx

import qpass
from qpass.report import QuantReport
from qpass.report.compare import compare_page, differing_settings, figures, layer_pairs
from qpass.report.data import BlockRow, InputPreview, LayerRow, ReportData


def report(*layers: LayerRow, **options: object) -> ReportData:
    return ReportData("M", {"name": "w4a4"}, True, 8, (), layers, (BlockRow("a", 1.0),), (), 1.0, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def both(quantized: fx.GraphModule, quantized_4bit: fx.GraphModule) -> tuple[QuantReport, QuantReport]:
    return qpass.quantization_report(quantized), qpass.quantization_report(quantized_4bit)


def test_the_page_has_both_reports_layer_by_layer(both: tuple[QuantReport, QuantReport]) -> None:
    shown = html.unescape(compare_page(both, ("runs/a/", "<b>runs/b/")))
    for one, other in zip(both[0].layers, both[1].layers, strict=True):
        gain = f"{other.sqnr_db - one.sqnr_db:+.1f}"
        cells = f'>{one.sqnr_db:.1f}</td><td class="n">{other.sqnr_db:.1f}</td>'
        assert cells in shown
        assert gain in shown
    for text in ("w8a8", "repq-vit-w4a4", "qpass verify runs/a/", "activation.bits", "blocks.0.attn · QKᵀ, runs/a/: "):
        assert text in shown
    assert "<b>runs" not in compare_page(both, ("runs/a/", "<b>runs/b/"))
    assert compare_page(both, ("a", "b")) == compare_page(both, ("a", "b"))


def test_settings_that_differ_are_found_at_any_depth() -> None:
    first = {"a": {"b": 1, "c": [1]}, "rules": [], "same": 1}
    second = {"a": {"b": 2, "c": [1]}, "rules": [{"x": None}], "same": 1, "new": True}
    assert list(differing_settings(first, second)) == [
        ("a.b", "1", "2"),
        ("rules", "[]", "[{'x': None}]"),
        ("new", "-", "True"),
    ]
    assert list(differing_settings({"budget": None}, {"budget": {"samples": 8}})) == [("budget", "-", "{'samples': 8}")]


def test_layers_are_matched_by_name_and_number() -> None:
    first = report(LayerRow("a", "linear", 4, (8,), 10.0), LayerRow("a", "linear", None, (None,), 20.0))
    second = report(LayerRow("b", "matmul", None, (4, 8), 5.0, part="AV"), LayerRow("a", "linear", 8, (8,), 12.5))
    pairs = layer_pairs(first, second)
    assert [(pair.label, pair.bits) for pair in pairs] == [
        ("a", ("4 x 8", "8 x 8")),
        ("a", ("float x float", "float")),
        ("b · AV", ("float", "4 / 8")),
    ]
    assert pairs[0].gain == 2.5
    assert pairs[1].gain != pairs[1].gain, "no gain over a layer in float"


def test_figures_stand_beside_one_another(both: tuple[QuantReport, QuantReport]) -> None:
    rows = {name: (first, second) for name, first, second in figures(*both)}
    assert rows["recipe"] == ("w8a8", "repq-vit-w4a4")
    assert rows["output, dB"] == tuple(f"{each.output_sqnr_db:.1f}" for each in both)
    assert rows["bits of weights on average"] == ("8.00", "4.00")
    assert list(figures(report(), report(target="openvino")))[-2] == ("file for", "", "openvino")


def test_unfair_comparisons_say_so(both: tuple[QuantReport, QuantReport]) -> None:
    page = compare_page(both, ("a", "b"))
    assert "The models differ" not in page
    assert "different samples" not in page
    assert both[1].preview is not None
    preview: InputPreview = replace(both[1].preview, means=(9.0, 9.0, 9.0))
    page = compare_page((both[0], replace(both[1], model="Other", seed=7, preview=preview)), ("a", "b"))
    for text in ("The models differ (VisionTransformer, Other)", "different samples", "preprocessing differ"):
        assert text in page
