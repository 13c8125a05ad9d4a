"""Means of bit widths, worked by hand."""

from __future__ import annotations

from typing import Any

from qpass.report.bits import bit_widths
from qpass.report.data import ReportData, TensorRow


def row(name: str, kind: str, bits: int, size: int, **options: Any) -> TensorRow:
    return TensorRow(name, name, kind, "Uniform", bits, 0.1, None, 0.0, 1.0, 30.0, size=size, **options)


def report(*rows: TensorRow) -> ReportData:
    config = {"name": "w4a4", "activation": {"bits": 4}, "weight": {"bits": 4}}
    return ReportData("M", config, True, 8, rows, (), (), (), 1.0)


def test_the_mean_is_over_multiply_adds_and_leaves_the_networks_input_out() -> None:
    rows = (
        row("x", "activation", 8, 1000, network_input=True),
        row("a", "activation", 4, 10),
        row("b", "activation", 8, 30),
        row("w", "weight", 4, 50),
    )
    activations, weights = bit_widths(report(*rows))
    assert activations.mean == (4 * 10 + 8 * 30) / 40
    assert [each.name for each in activations.wider] == ["b"]
    assert str(activations) == "activations: 7.00 bits on average, 1 of 2 have 8 bits (network input 8)"
    assert str(weights) == "weights: 4 bits"
    assert weights.wider == ()


def test_a_module_that_is_called_twice_counts_with_both_calls() -> None:
    rows = (row("a", "activation", 4, 10), row("a", "activation", 4, 20), row("b", "activation", 8, 30))
    (activations,) = bit_widths(report(*rows))
    assert len(activations.rows) == 2
    assert activations.mean == (4 * 30 + 8 * 30) / 60


def test_a_report_without_sizes_gives_the_mean_over_tensors() -> None:
    (weights,) = bit_widths(report(row("a", "weight", 4, 0), row("b", "weight", 8, 30), row("c", "weight", 8, 30)))
    assert weights.mean == (4 + 8 + 8) / 3
