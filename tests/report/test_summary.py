from __future__ import annotations

import json
from dataclasses import replace

import pytest
from torch import fx

import qpass
from qpass.report.data import Speed, Verified
from qpass.report.summary import summary


def test_figures_that_are_unknown_are_null(quantized: fx.GraphModule) -> None:
    report = qpass.quantization_report(quantized)
    bare = summary(replace(report, agreement=None, sizes={}, output_sqnr_db=float("nan")))
    assert {name for name, value in bare.items() if value is None} == {
        *("agreement", "output_sqnr_db", "bytes", "float_bytes", "verified"),
    }
    json.dumps(bare, allow_nan=False)


def test_figures_are_those_of_the_report(quantized: fx.GraphModule) -> None:
    sizes = {"file float.onnx": 400, "file model.onnx": 100}
    report = replace(
        qpass.quantization_report(quantized), sizes=sizes, speed=(Speed(2.0, 1, 1),), verified=Verified(True, "PASSED", 8)
    )
    found = summary(report)
    assert (found["recipe"], found["bytes"], found["float_bytes"]) == ("w8a8", 100, 400)
    assert found["agreement"] == {"same": report.agreement.same, "samples": 8, "classes": 10}
    assert found["output_sqnr_db"] == pytest.approx(report.output_sqnr_db)
    assert found["speed"][0]["speedup"] == 2.0
    assert found["verified"]["passed"]
