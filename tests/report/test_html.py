"""The page holds all that the report says, and needs nothing else."""

from __future__ import annotations

import dataclasses
import re

import pytest
from torch import fx

import qpass
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
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!#)", re.sub(r"xmlns[:\w]*=\"[^\"]*\"", "", page))
    assert "@import" not in page
    assert "<script" not in page


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
