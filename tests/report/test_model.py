"""The report as text, and as JSON that comes back."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from torch import fx

import qpass
from qpass.errors import DataError
from qpass.reconstruction.record import BlockRecord
from qpass.report import QuantReport
from qpass.report.data import Speed, Verified


@pytest.fixture(scope="module")
def report(quantized: fx.GraphModule) -> QuantReport:
    return qpass.quantization_report(quantized)


def test_json_comes_back(report: QuantReport) -> None:
    rich = replace(
        report,
        sizes={"file": 3_000_000},
        reconstruction=(BlockRecord("blocks.0", 0.5, 0.25, 3, {"fc": 4}, {"s": (0.0, 0.1, "affine")}, "weights"),),
        unrotated=(("heads", "", "a reason"),),
        target="onnxruntime",
        options={"a": "1"},
        processors="all",
        speed=(Speed(1.5, 1, 1, "a processor"),),
        verified=Verified(True, "PASSED", 8),
    )
    assert QuantReport.from_json(rich.to_json()) == rich
    text = str(rich)
    for line in (
        "file: 3.00 MB",
        "file for onnxruntime, a=1; exact on all",
        "blocks.0, weights                          0.5000   0.2500  4",
        "  heads (model): a reason",
    ):
        assert line in text


def test_the_repr_is_one_line(report: QuantReport) -> None:
    assert repr(report) == f"<QuantReport: VisionTransformer as w8a8, 14 layers, output {report.output_sqnr_db:.1f} dB>"
    assert "top-1 class: as float on" in str(report)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("samples", "8", "report.samples: is a str; expected int"),
        ("more", 1, "report: has the fields"),
        ("layers", [{"path": "a"}], r"report.layers\[0\]: has the fields"),
        ("model", "a\x1b[31m", "report"),
    ],
)
def test_other_data_is_refused_by_name(report: QuantReport, field: str, value: object, message: str) -> None:
    data = json.loads(report.to_json())
    data[field] = value
    with pytest.raises(DataError, match=message):
        QuantReport.from_plain(data)
