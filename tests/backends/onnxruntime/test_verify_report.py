"""What the report of a verification says of the other end of the proof."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.graph import info


def test_it_says_with_which_error_the_graph_was_compared_with_the_model(
    quantized: fx.GraphModule, exported: Path, images: Tensor, tmp_path: Path
) -> None:
    check = info(quantized)["source_check"]
    line = f"the float graph against the given model: error {check.error:.1e}, bound {check.bound:.1e}, 4 samples, after trace"
    for graph in (quantized, qpass.load(qpass.save(quantized, tmp_path / "graph.safetensors"))):
        report = qpass.verify_onnx(graph, exported, images)
        assert f"\n  source: {line}" in str(report)
        assert "left out" not in str(report)
        data = json.loads(json.dumps(report.to_dict()))
        assert [text[: len(line)] for text in data["source_checks"]] == [line]
        assert data["left_out"] == []


def test_it_says_that_a_graph_was_not_compared(quantized: fx.GraphModule, exported: Path, images: Tensor) -> None:
    graph = copy.deepcopy(quantized)
    graph.meta["qpass"] = {name: value for name, value in info(quantized).items() if name != "source_check"}
    report = qpass.verify_onnx(graph, exported, images)
    assert report.passed
    assert report.source_checks == ()
    assert report.to_dict()["left_out"] == ("the graph was not compared with the caller's model",)
    assert "\n  left out: the graph was not compared with the caller's model\n" in str(report)
    assert "source:" not in str(report)


@pytest.mark.parametrize("compared", [True, False])
def test_parts_are_named(compared: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 8)
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4)).eval()
    parts = qpass.quantize_graph(model, [x], "w8a8", submodules=["0", "2"], progress=False)
    if not compared:
        info(parts.get_submodule("2")).pop("source_check")  # type: ignore[arg-type]
    report = qpass.verify_onnx(parts, qpass.export_onnx(parts, tmp_path / "parts"), x)
    said = [text.partition(" ")[0] for text in (*report.source_checks, *report.left_out)]
    assert said == ["0,", "2,"]
    assert len(report.left_out) == (0 if compared else 1)
