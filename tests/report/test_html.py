"""The page holds all that the report says, and needs nothing else."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import json
import re

import pytest
from torch import fx

import qpass
from qpass.report import QuantReport
from qpass.report.html import SHOWN_HISTOGRAMS, render


@pytest.fixture(scope="module")
def page(quantized: fx.GraphModule) -> str:
    return qpass.quantization_report(quantized).to_html()


def test_every_layer_and_block_is_on_it(quantized: fx.GraphModule, page: str) -> None:
    report = qpass.quantization_report(quantized)
    for row in (*report.layers, *report.blocks):
        assert row.path in page
        assert f"{row.sqnr_db:.1f}" in page
    assert f"{report.output_sqnr_db:.1f}" in page


def test_it_loads_nothing(page: str) -> None:
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!#|data:image/png)", re.sub(r"xmlns[:\w]*=\"[^\"]*\"", "", page))
    assert "@import" not in page
    assert "url(" not in page


def test_its_policy_allows_its_own_script_alone_and_no_network(page: str) -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert page.count("<script") == 1
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="(.*?)">', page)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules == {
        "default-src": "'none'", "img-src": "data:", "style-src": "'unsafe-inline'", "script-src": f"'sha256-{digest}'",
    }  # fmt: skip
    assert not re.search(r"<[^>]* on\w+=", page)


def test_the_top_says_what_is_kept_and_what_to_do(quantized: fx.GraphModule, page: str) -> None:
    shown = html.unescape(page)
    report = qpass.quantization_report(quantized)
    assert report.agreement is not None
    for text in (
        f"{report.agreement.same} of 8 calibration samples have the same top-1 class",
        f"output error {report.output_sqnr_db:.1f} dB",
        "qpass verify out/",
        "qpass bench out/",
        "not its effect on the output",
        "calibrated on 8 samples, seed 0",
        "blocks.0.attn · QKᵀ",
    ):
        assert text in shown, text
    worst = min(report.tensors, key=lambda row: row.sqnr_db)
    assert f"- {{{worst.readers[0][0]}: null}}" in shown
    assert page.count('<img src="data:image/png;base64,') == 4


def test_the_same_report_has_the_same_page(quantized: fx.GraphModule, page: str) -> None:
    assert render(qpass.quantization_report(quantized)) == page


def test_a_report_of_an_earlier_version_has_a_page(quantized: fx.GraphModule) -> None:
    data = json.loads(qpass.quantization_report(quantized).to_json())
    for name in ("seed", "calibration_samples", "agreement", "preview", "speed", "verified"):
        del data[name]
    for row in data["tensors"]:
        del row["part"], row["readers"], row["output_error"]
    for row in data["layers"]:
        del row["part"]
    shown = html.unescape(QuantReport.from_json(json.dumps(data)).to_html())
    assert "Output error" in shown
    assert "What the network saw" not in shown
    assert "blocks.0.attn: softmax" in shown


def test_a_notebook_shows_the_page_in_a_frame_of_its_own(quantized: fx.GraphModule, page: str) -> None:
    frame = qpass.quantization_report(quantized)._repr_html_()
    (inner,) = re.findall(r'^<iframe sandbox="allow-scripts" srcdoc="([^"]*)" style="[^"]*"></iframe>$', frame)
    assert html.unescape(inner) == page


def test_histograms_are_of_the_worst_tensors(quantized: fx.GraphModule, page: str) -> None:
    rows = sorted(qpass.quantization_report(quantized).tensors, key=lambda row: row.sqnr_db)
    assert len(rows) > SHOWN_HISTOGRAMS
    assert all(f"{row.sqnr_db:.1f} dB" in page for row in rows[:SHOWN_HISTOGRAMS])


def test_a_report_without_rows_has_a_page(quantized: fx.GraphModule) -> None:
    report = qpass.quantization_report(quantized)
    empty = dataclasses.replace(report, tensors=(), layers=(), blocks=(), stayed_float=(("linear", "<b>head", "a & b"),))
    text = render(empty)
    assert "<b>head" not in text
    assert "&lt;b&gt;head" in text
    assert "a &amp; b" in text
