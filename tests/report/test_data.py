"""What a report counts."""

from __future__ import annotations

from qpass.report.data import LayerRow, ReportData


def report(*kinds: str, **options: str) -> ReportData:
    layers = tuple(LayerRow("a", kind, 4, (4,), 1.0) for kind in kinds)
    return ReportData("M", {}, True, 8, (), layers, (), (), 1.0, options=options)


def test_layers_are_counted_by_kind_in_order() -> None:
    assert list(report("linear", "matmul", "linear").counts.items()) == [("linear", 2), ("matmul", 1)]


def test_options_are_a_text() -> None:
    assert report().options_text == "default options"
    assert report(a="1", b="x").options_text == "a=1, b=x"
