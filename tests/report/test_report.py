from __future__ import annotations

import dataclasses
import html
import json
import math
import re

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.errors import DataError
from qpass.report import QuantReport
from qpass.report.collect import sqnr_db


def test_sqnr_in_numpy() -> None:
    x, y = torch.randn(2, 2**20 + 3)
    expected = 10 * np.log10((x.double().numpy() ** 2).sum() / ((x.double() - y.double()).numpy() ** 2).sum())
    assert sqnr_db(x, y) == pytest.approx(expected)
    assert sqnr_db(x, x) == 200


def test_rows_of_a_vit(quantized: fx.GraphModule, vit: nn.Module, images: Tensor) -> None:
    report = qpass.quantization_report(quantized)
    assert report.counts == {"conv2d": 1, "linear": 9, "matmul": 4}
    assert [block.path for block in report.blocks] == ["blocks.0", "blocks.1"]
    assert report.stayed_float == ()
    assert report.dynamic_batch
    weights = [row for row in report.tensors if row.kind == "weight"]
    activations = [row for row in report.tensors if row.kind == "activation"]
    assert len(weights) == 10
    assert len(activations) == sum(type(m).__name__ == "Uniform" for m in quantized.children())
    expected = sqnr_db(vit(images[:8]), quantized(images[:8]))
    assert report.output_sqnr_db == pytest.approx(expected, abs=0.5)
    assert report.layers[-1].path == "head"
    assert report.layers[-1].sqnr_db == pytest.approx(report.output_sqnr_db)


def test_a_block_is_compared_with_the_model_s_own(vit: nn.Module, quantized: fx.GraphModule, images: Tensor) -> None:
    """Independent of the report's way: a hook on the model, and the residual sum in the quantized graph."""
    from qpass.passes.analysis.blocks import find_blocks

    kept: list[Tensor] = []
    handle = vit.blocks[0].register_forward_hook(lambda module, inputs, output: kept.append(output))
    vit(images)
    handle.remove()
    run = fx.Interpreter(quantized, garbage_collect_values=False)
    run.run(images)
    quantized_output = run.env[find_blocks(quantized)["blocks.0"]]
    assert sqnr_db(kept[0], quantized_output) == pytest.approx(qpass.quantization_report(quantized).blocks[0].sqnr_db, abs=1e-2)


def test_histogram_counts_every_value_and_levels_are_the_codes(quantized: fx.GraphModule) -> None:
    row = next(
        row
        for row in qpass.quantization_report(quantized).tensors
        if row.name == "softmax_int_quantizer" or "softmax" in row.name
    )
    assert sum(row.histogram) == 8 * 3 * 17 * 17
    assert len(row.levels) == 256
    assert min(row.levels) == 0
    assert row.low >= 0


def test_sizes_count_packed_weights(quantized_4bit: fx.GraphModule, vit: nn.Module) -> None:
    sizes = qpass.quantization_report(quantized_4bit).sizes
    matrices = [p for name, p in vit.named_parameters() if p.dim() >= 2 and name not in ("cls_token", "pos_embed")]
    assert sizes["weights, float32"] > 4 * sum(p.numel() for p in matrices)
    assert sizes["weights, stored"] < sizes["weights, float32"] / 3


def test_json_reads_back_equal(quantized: fx.GraphModule) -> None:
    report = qpass.quantization_report(quantized)
    again = QuantReport.from_json(report.to_json())
    assert again.to_json() == report.to_json()
    assert again.layers == report.layers


def test_the_page_stands_alone(quantized_4bit: fx.GraphModule) -> None:
    page = qpass.quantization_report(quantized_4bit).to_html()
    assert page.count("<svg") == 2 + 12, "two by depth, and histograms"
    outside = re.findall(r'(?:src|href)="(?!#|data:)([^"]+)"', page)
    assert outside == [], "nothing is loaded from elsewhere"
    for path in ("blocks.0.attn", "blocks.1.mlp.fc2", "head"):
        assert path in page
    assert "LogSqrt2" in page
    assert "$" not in page, "labels hold no markup of mathematical text"


def test_a_report_of_an_earlier_version_has_its_present_name_and_the_mean_over_tensors(quantized: fx.GraphModule) -> None:
    data = json.loads(qpass.quantization_report(quantized).to_json())
    data["config"] |= {"name": "w4a4", "budget": {"activation_bits": 5, "activation_widths": [4, 8]}}
    data["config"]["activation"]["bits"] = 4
    for index, row in enumerate(data["tensors"]):
        row["bits"] = 4 if row["kind"] == "activation" and index % 3 else 8
        del row["size"], row["network_input"]
    report = QuantReport.from_json(json.dumps(data))
    bits = [row["bits"] for row in data["tensors"] if row["kind"] == "activation"]
    said = f"activations: {np.mean(bits):.2f} bits on average, {bits.count(8)} of {len(bits)} have 8 bits"
    assert "VisionTransformer as mixed-w4a5: quantized" in str(report)
    assert said in str(report).splitlines()
    page = report.to_html()
    assert "VisionTransformer as mixed-w4a5" in page
    assert said in page.replace("Activations", "activations")


def test_text_names_what_stayed_float(vit: nn.Module, images: Tensor) -> None:
    graph = qpass.quantize_graph(vit, [images], {"preset": "w8a8", "rules": [{"head": None}]}, progress=False)
    assert "linear head: a rule of the config leaves it in float" in str(qpass.quantization_report(graph))
    assert not math.isnan(qpass.quantization_report(graph).output_sqnr_db)


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("name", [r"$\frac{$", "<script>alert(1)</script>", "]]></svg><b>", "a[/red]:smile:"])
def test_names_of_modules_are_shown_as_they_are(quantized: fx.GraphModule, name: str) -> None:
    report = qpass.quantization_report(quantized)
    tensors = tuple(dataclasses.replace(row, path=name, quantizer=name) for row in report.tensors)
    layers = tuple(dataclasses.replace(row, path=name) for row in report.layers)
    page = dataclasses.replace(report, model=name, tensors=tensors, layers=layers, stayed_float=((name, name, name),)).to_html()
    shown = html.unescape(page)
    assert name in shown
    if "<" in name:
        assert name not in page


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("samples", 10**30, "a number beyond 64 bits"),
        ("model", "\x1b[31m", "texts without control characters"),
        ("model", "\ud800", "texts without control characters"),
        ("config", {}, r"report\.config\.name: is no text"),
        ("config", {"name": "w4a4", "activation": {"bits": "4"}}, r"report\.config\.activation\.bits: is odd"),
        ("layers", [["x"]], "layers"),
    ],
)
def test_reports_that_nobody_wrote_are_refused(quantized: fx.GraphModule, field: str, value: object, match: str) -> None:
    data = json.loads(qpass.quantization_report(quantized).to_json())
    data[field] = value
    with pytest.raises(DataError, match=match):
        QuantReport.from_json(json.dumps(data))
