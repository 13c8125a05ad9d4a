"""What the report of a verification says of the other end of the proof."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.backends.onnxruntime.output_check import OutputCheck
from qpass.backends.onnxruntime.verify_report import RuntimeCheck, VerifyReport
from qpass.graph.facts import facts_of, update_facts


def test_it_says_with_which_error_the_graph_was_compared_with_the_model(
    quantized: fx.GraphModule, exported: Path, images: Tensor, tmp_path: Path
) -> None:
    check = facts_of(quantized).source_check
    line = f"the float graph against the given model: error {check.error:.1e}, bound {check.bound:.1e}, 4 samples, after trace"
    for graph in (quantized, qpass.load(qpass.save(quantized, tmp_path / "graph.safetensors"))):
        report = qpass.verify_onnx(graph, exported, images)
        assert f"\n  source: {line}" in str(report)
        assert repr(report) == f"<VerifyReport: {report.headline}>"
        assert "left out" not in str(report)
        data = json.loads(json.dumps(report.to_dict()))
        assert [text[: len(line)] for text in data["source_checks"]] == [line]
        assert data["left_out"] == []


def test_it_says_that_a_graph_was_not_compared(quantized: fx.GraphModule, exported: Path, images: Tensor) -> None:
    graph = copy.deepcopy(quantized)
    update_facts(graph, source_check=None)
    report = qpass.verify_onnx(graph, exported, images)
    assert report.passed
    assert report.source_checks == ()
    assert report.to_dict()["left_out"] == ("the graph was not compared with the caller's model",)
    assert "\n  left out: the graph was not compared with the caller's model\n" in str(report)
    assert "source:" not in str(report)


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("compared", [True, False])
def test_parts_are_named(compared: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 8)
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4)).eval()
    parts = qpass.quantize_graph(model, [x], "w8a8", submodules=["0", "2"], progress=False)
    if not compared:
        update_facts(parts.get_submodule("2"), source_check=None)  # type: ignore[arg-type]
    report = qpass.verify_onnx(parts, qpass.export_onnx(parts, tmp_path / "parts"), x)
    said = [text.partition(" ")[0] for text in (*report.source_checks, *report.left_out)]
    assert said == ["0,", "2,"]
    assert len(report.left_out) == (0 if compared else 1)


@pytest.mark.parametrize(("free", "source"), [(True, True), (False, True), (True, False), (False, False)])
def test_the_verdict_says_what_proves_nothing(free: bool, source: bool) -> None:
    output = OutputCheck("y", 4, 0, 0, 0.0, informative=free)
    checks = (RuntimeCheck("as written", (), (output,), 0.0, 30.0, 0.5, None),)
    report = VerifyReport("m.onnx", 2, checks, source_informative=source)
    assert report.passed
    verdict = {
        (True, True): "passed",
        (False, True): "layers proven, whole run not informative",
        (True, False): "file proven, comparison with the model not informative",
        (False, False): "layers proven, whole run and comparison with the model not informative",
    }[free, source]
    assert report.verdict == report.to_dict()["verdict"] == verdict
    assert str(report).splitlines()[0].startswith("PASSED: " if verdict == "passed" else f"PASSED ({verdict}): ")


@pytest.mark.parametrize("bound", [0.99, 1.0])
def test_a_vague_comparison_with_the_model_is_in_the_verdict(
    bound: float, quantized: fx.GraphModule, exported: Path, images: Tensor
) -> None:
    graph = copy.deepcopy(quantized)
    update_facts(graph, source_check=dataclasses.replace(facts_of(graph).source_check, bound=bound))
    report = qpass.verify_onnx(graph, exported, images)
    assert report.passed
    assert report.verdict == ("passed" if bound < 1 else "file proven, comparison with the model not informative")
    assert ("not informative: roundings alone" in str(report)) == (bound >= 1)


def test_a_vague_comparison_of_one_part_is_in_the_verdict(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 8)
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4)).eval()
    parts = qpass.quantize_graph(model, [x], "w8a8", submodules=["0", "2"], progress=False)
    part = parts.get_submodule("0")
    assert isinstance(part, fx.GraphModule)
    update_facts(part, source_check=dataclasses.replace(facts_of(part).source_check, bound=2.0))
    report = qpass.verify_onnx(parts, qpass.export_onnx(parts, tmp_path / "parts"), x)
    assert report.verdict == "file proven, comparison with the model not informative"


class _Sines(nn.Module):
    """Sines of large angles, one behind the other: rounding is amplified until it decides everything."""

    def __init__(self, depth: int, factor: float, quantized_end: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(depth))
        self.end = nn.Linear(32, 3) if quantized_end else nn.Identity()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = (self.factor * layer(x)).sin()
        return self.end(x)


@pytest.mark.slow(after=1)
@pytest.mark.parametrize(
    ("factor", "quantized_end", "verdict"),
    [
        (1.0, False, "passed"),
        (30.0, False, "rounding decides output 'output': not proven"),
        (30.0, True, "rounding decides sin_9_quantizer: not proven"),
    ],
)
def test_an_intact_float_file_passes_and_what_rounding_decides_is_named(
    factor: float, quantized_end: bool, verdict: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    x = torch.rand(16, 32) * 2 - 1
    model = _Sines(10, factor, quantized_end).eval()
    if quantized_end:
        graph = qpass.quantize_graph(model, [x], "w8a8", progress=False)
    else:
        with pytest.warns(UserWarning, match="_Sines: nothing was found to quantize.*10 x linear: it computes angles"):
            graph = qpass.quantize_graph(model, [x], "w8a8", progress=False)
    report = qpass.verify_onnx(graph, qpass.export_onnx(graph, tmp_path / "m.onnx"), x)
    assert report.passed
    assert report.verdict == verdict
    assert verdict == "passed" or f"PASSED ({verdict})" in str(report)
