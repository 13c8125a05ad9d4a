"""What a notebook shows is what ``print`` shows, without markup of its own."""

from __future__ import annotations

import html

import pytest
from torch import fx

import qpass
from qpass.backends.onnxruntime import LatencyReport, VerifyReport
from qpass.runtime.notebook import ShownAsText


def test_text_is_no_markup() -> None:
    class Result(ShownAsText):
        def __str__(self) -> str:
            return "<b>\x1b\n& more"

    assert Result()._repr_html_() == "<pre>&lt;b&gt;\\x1b\n&amp; more</pre>"


@pytest.mark.parametrize("report", [VerifyReport("m.onnx", 8), LatencyReport("float", "a machine", (), {}, {})])
def test_reports_are_shown_as_printed(report: ShownAsText) -> None:
    shown = report._repr_html_()
    assert html.unescape(shown.removeprefix("<pre>").removesuffix("</pre>")) == str(report)


def test_a_graph_is_shown_as_its_report(quantized: fx.GraphModule) -> None:
    assert quantized._repr_html_() == qpass.quantization_report(quantized)._repr_html_()
