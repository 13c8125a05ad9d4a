"""The tensors of two reports side by side, those first whose errors differ most."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from qpass.report.data import ReportData, TensorRow
from qpass.report.matched import matched


@dataclass(frozen=True)
class TensorPair:
    """One tensor in two reports.

    Attributes:
        label: The layer that reads it, and what it is there.
        rows: Its row in each report; None where it stays float.
    """

    label: str
    rows: tuple[TensorRow | None, TensorRow | None]

    @property
    def gain(self) -> float:
        """SQNR of the second minus that of the first, in dB; infinite if one of them stays float."""
        first, second = self.rows
        if first is None or second is None:
            return math.inf if second is None else -math.inf
        return second.sqnr_db - first.sqnr_db

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data; null where the tensor stays float."""
        return {
            "tensor": self.label,
            "bits": [None if row is None else row.bits for row in self.rows],
            "sqnr_db": [None if row is None else row.sqnr_db for row in self.rows],
            "gain_db": self.gain if math.isfinite(self.gain) else None,
        }


def tensor_pairs(first: ReportData, second: ReportData) -> list[TensorPair]:
    """Returns every tensor that is quantized in one of the reports, those first whose SQNR differs most."""
    pairs = [TensorPair(label, rows) for label, rows in matched(first.tensors, second.tensors, lambda row: row.label)]
    return sorted(pairs, key=lambda pair: 0.0 if math.isnan(pair.gain) else -abs(pair.gain))
