"""Tensors that lose most, ordered by what is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import Tensor, nn

import qpass
from qpass.passes.allocate_bits import Allocated
from qpass.report.data import ReportData, TensorRow
from qpass.report.losses import largest_losses, with_output_errors

Q = TensorRow("q", "a", "activation", "Uniform", 4, 0.1, 3.0, -1.0, 1.0, 30.0, readers=(("fc", "activation"),), part="input")
W = replace(Q, name="w", kind="weight", sqnr_db=10.0, readers=(("fc", "weight"),), part="weight")
ALLOCATION = (Allocated("fc", "activation", 4, 10, {4: 0.5, 8: 0.0}), Allocated("fc", "weight", 4, 10, {4: 0.25}))


def report(*tensors: TensorRow) -> ReportData:
    return ReportData("M", {"name": "w4a4"}, True, 8, tensors, (), (), (), 1.0)


def test_errors_of_a_budget_go_to_their_tensors() -> None:
    assert [row.output_error for row in with_output_errors((Q, W), ALLOCATION, ["q", "q"])] == [0.5, 0.25]
    assert with_output_errors((Q, W), ALLOCATION[:1], ["q"]) == (Q, W), "another number of tensors"
    other = replace(Q, bits=8)
    assert with_output_errors((other, W), ALLOCATION, ["q"])[0].output_error is None, "another bit width"


def test_output_errors_order_before_own_errors() -> None:
    assert largest_losses(report(Q, W), 5) == ([W, Q], False)
    measured = with_output_errors((Q, W), ALLOCATION, ["q"])
    rows, is_measured = largest_losses(report(*measured), 1)
    assert is_measured
    assert [row.name for row in rows] == ["q"]
    assert largest_losses(report(measured[0], W), 5)[1] is False, "an error that is missing cannot be ordered"


def test_tensors_that_no_layer_reads_are_left_out() -> None:
    assert largest_losses(report(replace(Q, readers=())), 5) == ([], False)


@pytest.mark.slow
def test_a_run_with_a_budget_has_them(vit: nn.Module, images: Tensor) -> None:
    config = {"preset": "w8a8", "budget": {"weight_bits": 6, "weight_widths": [4, 8], "samples": 8}}
    found = qpass.quantization_report(qpass.quantize_graph(vit, [images], config, progress=False))
    weights = [row for row in found.allocation if row.kind == "weight"]
    rows = [row for row in found.tensors if row.kind == "weight"]
    assert [row.output_error for row in rows] == [each.errors[each.bits] for each in weights]
    assert [row.readers[0][0] for row in rows] == [each.path for each in weights]
    assert all(row.output_error is not None for row in found.tensors)
