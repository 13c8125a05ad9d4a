"""Parts of files."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qpass.backends.onnxruntime.excerpt import excerpt
from qpass.backends.onnxruntime.session import OrtSession


def _float(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def _model() -> onnx.ModelProto:
    """x -> a = x + one -> b = 2 a or 3 a, by a condition, in branches that read from outside -> c = b + unread."""
    branches = {
        f"{name}_branch": helper.make_graph([helper.make_node("Mul", ["a", factor], [name])], name, [], [_float(name)])
        for name, factor in (("then", "two"), ("else", "three"))
    }
    nodes = [
        helper.make_node("Add", ["x", "one"], ["a"]),
        helper.make_node("If", ["condition"], ["b"], **branches),
        helper.make_node("Add", ["b", "unread"], ["c"]),
    ]
    numbers = {"one": 1.0, "two": 2.0, "three": 3.0, "unread": 4.0}
    constants = [numpy_helper.from_array(np.array(number, np.float32), name) for name, number in numbers.items()]
    condition = helper.make_tensor_value_info("condition", TensorProto.BOOL, [])
    graph = helper.make_graph(nodes, "g", [_float("x"), condition], [_float("c")], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_it_holds_what_its_values_need_and_what_branches_read() -> None:
    part = excerpt(_model(), ["b"])
    assert [node.op_type for node in part.graph.node] == ["Add", "If"]
    assert {tensor.name for tensor in part.graph.initializer} == {"one", "two", "three"}
    session = OrtSession(part, optimized=False)
    for condition, factor in ((True, 2), (False, 3)):
        found = session.run({"x": np.array([1.0, 5.0], np.float32), "condition": np.array(condition)})
        assert found["b"].tolist() == [2 * factor, 6 * factor]


def test_given_values_are_inputs_in_place_of_what_computes_them() -> None:
    part = excerpt(_model(), ["c"], [_float("b")])
    assert [node.op_type for node in part.graph.node] == ["Add"]
    session = OrtSession(part, optimized=False)
    assert session.input_names == ["b"]
    assert session.run({"b": np.array([1.0], np.float32)})["c"].tolist() == [5.0]
