"""Which tensors lose most, and by what measure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from qpass.passes.allocate_bits import Allocated
from qpass.report.data import ReportData, TensorRow


def with_output_errors(
    rows: Sequence[TensorRow], allocation: Sequence[Allocated], activations: Iterable[Any]
) -> tuple[TensorRow, ...]:
    """Returns the rows with the output errors that a budget measured.

    Args:
        rows: Rows of activations and weights.
        allocation: What the budget chose: all activations, then all weights, as ``AllocateBits`` orders
            them. Empty without a budget.
        activations: Names of the quantizers, in order of the layers that read them.
    """
    names = [*dict.fromkeys(map(str, activations)), *dict.fromkeys(row.name for row in rows if row.kind == "weight")]
    if len(names) != len(allocation):
        return tuple(rows)
    found = dict(zip(names, allocation, strict=True))
    return tuple(_with_error(row, found.get(row.name)) for row in rows)


def largest_losses(report: ReportData, count: int) -> tuple[list[TensorRow], bool]:
    """Returns the tensors that lose most, and whether they are ordered by their errors of the output.

    Without these (the recipe has no budget) they are ordered by the SQNR of each tensor alone.
    """
    rows = list({row.name: row for row in report.tensors if row.readers}.values())
    measured = bool(rows) and all(row.output_error is not None for row in rows)
    key = (lambda row: -(row.output_error or 0.0)) if measured else (lambda row: row.sqnr_db)
    return sorted(rows, key=key)[:count], measured


def _with_error(row: TensorRow, choice: Allocated | None) -> TensorRow:
    if choice is None or (choice.kind, choice.bits) != (row.kind, row.bits):
        return row
    return replace(row, output_error=choice.errors[choice.bits])
