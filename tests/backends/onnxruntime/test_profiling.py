"""Nodes of a file as onnxruntime runs it, and the multiply-adds of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qpass.backends.onnxruntime.profiling import NodeCost, Profile, integer_arithmetic, integer_multiply_adds, profile_file


def test_every_node_is_there_with_its_time_and_its_multiply_adds(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((6, 7), np.float32), "w")
    x, y = (
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 5, 6]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="product"),
        helper.make_node("Erf", ["m"], ["y"], name="function"),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "m.onnx")
    profile = profile_file(tmp_path / "m.onnx", batch=3, runs=2)
    assert {cost.operator: (cost.kind, cost.multiply_adds) for cost in profile.nodes} == {
        "MatMul": ("float product", 3 * 5 * 6 * 7),
        "Erf": ("float", 0),
    }
    assert all(cost.milliseconds >= 0 for cost in profile.nodes)
    assert integer_arithmetic(profile.nodes) == 0


def test_the_share_of_integers_is_one_of_multiply_adds() -> None:
    costs = [NodeCost("a", "MatMulInteger", 1.0, 30), NodeCost("b", "MatMul", 9.0, 10), NodeCost("c", "Softmax", 5.0, 0)]
    assert integer_multiply_adds(costs) == 30
    assert integer_arithmetic(costs) == 0.75
    assert integer_arithmetic(costs[2:]) == 0


@pytest.mark.parametrize(("source", "unfused"), [("MatMulInteger", []), ("QuantizeLinear", ["d"])])
def test_a_pair_that_did_not_fuse_dequantizes_what_is_no_sum(source: str, unfused: list[str]) -> None:
    nodes = [helper.make_node(source, ["x", "w"], ["s"]), helper.make_node("DequantizeLinear", ["s", "scale"], ["y"], name="d")]
    assert [node.name for node in Profile((), helper.make_graph(nodes, "g", [], [])).unfused] == unfused
