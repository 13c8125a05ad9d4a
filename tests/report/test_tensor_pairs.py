from __future__ import annotations

import math
from typing import Any

from qpass.report.data import ReportData, TensorRow
from qpass.report.tensor_pairs import tensor_pairs


def report(**decibels: float) -> ReportData:
    rows = tuple(
        TensorRow(name, name, "activation", "Uniform", 8, 1.0, None, 0.0, 1.0, value, part="input", readers=((name, "input"),))
        for name, value in decibels.items()
    )
    options: dict[str, Any] = {"layers": (), "blocks": (), "stayed_float": (), "output_sqnr_db": 1.0}
    return ReportData("M", {"name": "w8a8"}, True, 8, rows, **options)


def test_those_that_differ_most_come_first() -> None:
    pairs = tensor_pairs(report(a=10.0, b=20.0, c=30.0, nan=math.nan), report(a=12.0, c=10.0, d=5.0, nan=math.nan))
    assert [pair.label for pair in pairs] == ["b · input", "d · input", "c · input", "a · input", "nan · input"]
    assert [pair.gain for pair in pairs[:4]] == [math.inf, -math.inf, -20.0, 2.0]
    assert pairs[0].to_dict() == {"tensor": "b · input", "bits": [8, None], "sqnr_db": [20.0, None], "gain_db": None}
    assert pairs[3].to_dict()["gain_db"] == 2.0
