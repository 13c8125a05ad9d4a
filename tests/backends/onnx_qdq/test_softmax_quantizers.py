"""Every quantizer of a Softmax output in a whole network: the file computes what the graph does, and in which operators."""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import fx, nn

import qpass

CHANGES: dict[str, dict[str, Any]] = {
    "log2": {"quantizer": "log2"},
    "log2 table": {"quantizer": "log2", "tabulated": True},
    "shift-log2": {"quantizer": "shift-log2"},
    "shift-log2 table": {"quantizer": "shift-log2", "tabulated": True},
    "shift-log2, rounded exponents": {"quantizer": "shift-log2", "exponent_round": True},
    "shift-log2, rounded exponents, table": {"quantizer": "shift-log2", "exponent_round": True, "tabulated": True},
    "tan": {"quantizer": "tan"},
    "tan table": {"quantizer": "tan", "tabulated": True},
}


@pytest.fixture(scope="module")
def quantize(vit: nn.Module, images: torch.Tensor) -> Callable[[str], fx.GraphModule]:
    @functools.cache
    def with_softmax(name: str) -> fx.GraphModule:
        config = {
            "preset": "mixed-w4a5",
            "calibrate_on": "float",
            "post_softmax": {"bits": 4, **CHANGES[name], "criterion": "tensor"},
        }
        return qpass.quantize_graph(vit, [images], config, progress=False)

    return with_softmax


@pytest.mark.slow(after=1)
@pytest.mark.parametrize(
    ("name", "target"),
    [
        *((name, "onnxruntime") for name in CHANGES),
        *((name, ("openvino", "onnxruntime-contrib")[index % 2]) for index, name in enumerate(CHANGES)),
    ],
)
def test_the_file_agrees_with_the_graph(
    quantize: Callable[[str], fx.GraphModule], images: torch.Tensor, tmp_path: Path, name: str, target: str
) -> None:
    graph = quantize(name)
    found = qpass.verify_onnx(graph, qpass.export_onnx(graph, tmp_path / "model.onnx", target=target), images)
    assert found.passed, str(found)


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("name", [name for name in CHANGES if "table" in name])
def test_a_table_reads_the_log_softmax_and_runs_no_formula(
    quantize: Callable[[str], fx.GraphModule], tmp_path: Path, name: str
) -> None:
    path = qpass.export_onnx(quantize(name), tmp_path / "model.onnx")
    counts = collections.Counter(node.op_type for node in onnx.load(path).graph.node)
    assert counts["LogSoftmax"] == counts["GatherElements"] == 2
    assert not {"Softmax", "Log", "Tan", "Exp"} & set(counts)


@pytest.mark.slow
def test_rounded_exponents_that_a_byte_spans_keep_an_integer_product(
    vit: nn.Module, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qpass.quantizers.shift_log2.SHIFTS", (2.0**-5,))
    change = {"bits": 4, **CHANGES["shift-log2, rounded exponents, table"], "criterion": "tensor"}
    graph = qpass.quantize_graph(vit, [images], {"preset": "mixed-w4a5", "post_softmax": change}, progress=False)
    path = qpass.export_onnx(graph, tmp_path / "model.onnx")
    assert qpass.verify_onnx(graph, path, images).passed
    model = onnx.load(path).graph
    makers = {output: node for node in model.node for output in node.output}
    factors = [makers[node.input[0]] for node in model.node if node.op_type == "MatMulInteger"]
    looked_up = [node for node in factors if node.op_type == "Reshape" and makers[node.input[0]].op_type == "GatherElements"]
    assert len(looked_up) == 2
