"""What a report counts."""

from __future__ import annotations

from dataclasses import replace

from qpass.report.data import LayerRow, ReportData, TensorRow


def report(*kinds: str, **options: str) -> ReportData:
    layers = tuple(LayerRow("a", kind, 4, (4,), 1.0) for kind in kinds)
    return ReportData("M", {}, True, 8, (), layers, (), (), 1.0, options=options)


def test_layers_are_counted_by_kind_in_order() -> None:
    assert list(report("linear", "matmul", "linear").counts.items()) == [("linear", 2), ("matmul", 1)]


def test_options_are_a_text() -> None:
    assert report().options_text == "default options"
    assert report(a="1", b="x").options_text == "a=1, b=x"


def test_a_tensor_is_named_by_its_layer() -> None:
    row = TensorRow("x_quantizer", "a.b", "activation", "Uniform", 8, 0.1, None, 0.0, 1.0, 30.0)
    assert row.label == "a.b: x", "in reports of earlier versions"
    assert replace(row, kind="weight").label == "a.b"
    assert replace(row, kind="output").label == "a.b · output"
    assert replace(row, readers=(("c", "activation"),), part="input").label == "c · input"
    assert replace(row, readers=(("c", "activation"), ("d", "activation")), part="input").label == "c · input (+ 1 more)"
