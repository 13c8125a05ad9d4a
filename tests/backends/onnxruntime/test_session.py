from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn
from torch.export import Dim

from qpass.backends.onnx_qdq.export import export_float
from qpass.backends.onnxruntime import session as session_module
from qpass.backends.onnxruntime.session import OrtSession
from qpass.errors import LoweringError
from qpass.graph.capture.trace import trace


def file(path: Path, nodes: list[onnx.NodeProto], *, size: int | str = 3, kind: int = TensorProto.FLOAT) -> Path:
    """Writes a graph from x to y."""
    values = [helper.make_tensor_value_info(name, kind, ["batch", size]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def endless(path: Path) -> Path:
    """Writes a graph whose loop never ends."""
    value = lambda name, kind, shape: helper.make_tensor_value_info(name, kind, shape)  # noqa: E731
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still_on"]), helper.make_node("Identity", ["v"], ["w"])],
        "body",
        [value("i", TensorProto.INT64, []), value("on", TensorProto.BOOL, []), value("v", TensorProto.FLOAT, ["batch", 3])],
        [value("still_on", TensorProto.BOOL, []), value("w", TensorProto.FLOAT, ["batch", 3])],
    )
    true = helper.make_node("Constant", [], ["true"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True]))
    return file(path, [true, helper.make_node("Loop", ["", "true", "x"], ["y"], body=body)])


def test_a_run_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "RUN_SECONDS", 1)
    with pytest.raises(LoweringError, match=r"endless\.onnx: did not finish within 1 seconds"):
        OrtSession(endless(tmp_path / "endless.onnx")).run({"x": np.zeros((1, 3), np.float32)})


def test_an_error_without_a_text_is_named_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError

    path = file(tmp_path / "fine.onnx", [helper.make_node("Relu", ["x"], ["y"])])
    monkeypatch.setattr(session_module.ort, "InferenceSession", fail)
    with pytest.raises(LoweringError, match=r"fine\.onnx: onnxruntime .* cannot load it"):
        OrtSession(path)


def test_inputs_are_not_made_up_without_a_bound(tmp_path: Path) -> None:
    path = file(tmp_path / "huge.onnx", [helper.make_node("Relu", ["x"], ["y"])], size=2**34)
    with pytest.raises(LoweringError, match=r"huge\.onnx: input x has the shape \(1, 17179869184\)"):
        OrtSession(path).random_feed(1)


def test_inputs_have_the_sizes_that_the_network_was_traced_with(tmp_path: Path) -> None:
    """One token or pixel says nothing about time, and a window may not fit into it."""
    opened = {"input": {0: "rows", 2: Dim("height", min=8), 3: Dim("width", min=6)}}
    graph = trace(nn.Conv2d(2, 3, 4, 2), (torch.randn(8, 2, 9, 7),), dynamic_shapes=opened)
    session = OrtSession(export_float(graph, tmp_path / "open.onnx"))
    feed = session.random_feed(5)
    assert feed["input"].shape == (5, 2, 9, 7)
    session.run(feed)


@pytest.mark.parametrize(
    "text", ["", "[", "[1]", '{"x": 3}', '{"x": [1, -2]}', '{"x": ["a", 2]}', '{"y": [7, 7]}', "[" * 10**5]
)
def test_sizes_that_a_file_does_not_say_are_1(text: str, tmp_path: Path) -> None:
    path = file(tmp_path / "open.onnx", [helper.make_node("Relu", ["x"], ["y"])], size="tokens")
    model = onnx.load(path)
    helper.set_model_props(model, {"qpass.example_sizes": text})
    onnx.save(model, path)
    assert OrtSession(path).random_feed(5)["x"].shape == (5, 1)


def test_inputs_of_a_type_that_is_not_made_up_are_refused(tmp_path: Path) -> None:
    path = file(tmp_path / "text.onnx", [helper.make_node("Identity", ["x"], ["y"])], kind=TensorProto.STRING)
    session = OrtSession(path)
    with pytest.raises(LoweringError, match=r"text\.onnx: onnxruntime .* cannot run it"):
        session.run(session.random_feed(1))
