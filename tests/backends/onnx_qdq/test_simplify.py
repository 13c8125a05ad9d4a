"""Simplified graphs compute what they computed, with fewer nodes."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import helper
from onnx.parser import parse_model
from onnx.reference import ReferenceEvaluator
from torch import Tensor, fx, nn

import qpass
from qpass.backends.onnx_qdq import simplify as module
from qpass.backends.onnx_qdq.simplify import simplify
from qpass.errors import LoweringError

HEADER = '<ir_version: 10, opset_import: ["" : 21]>'
X = np.arange(24, dtype=np.float32).reshape(2, 3, 4) - 7


@pytest.mark.parametrize(
    ("body", "left"),
    [
        pytest.param("a = Identity(x)  y = Relu(a)", ["Relu"], id="identity"),
        pytest.param("a = Transpose<perm=[1, 2, 0]>(x)  y = Transpose<perm=[2, 0, 1]>(a)", ["Identity"], id="transposed back"),
        pytest.param(
            "s = Constant<value_ints=[6, 4]>()  a = Reshape(x, s)  b = Constant<value_ints=[2, 12]>()  y = Reshape(a, b)",
            ["Reshape"],
            id="reshaped twice",
        ),
        pytest.param("c = Constant<value_float=2.0>()  d = Neg(c)  y = Mul(x, d)", ["Mul"], id="constants"),
        pytest.param(
            "l = Constant<value_float=-1.0>()  h = Constant<value_float=2.0>()  a = Max(x, l)  y = Min(a, h)",
            ["Clip"],
            id="bounds",
        ),
        pytest.param("a = Relu(x)  b = Relu(x)  y = Add(a, b)", ["Relu", "Add"], id="the same twice"),
        pytest.param("a = Relu(x)  y = Neg(x)", ["Neg"], id="unread"),
        pytest.param("s = Shape(x)  a = Relu(x)  y = Reshape(a, s)", ["Relu"], id="reshaped to its own shape"),
        *(
            pytest.param(
                f"c = Constant<value_float={number}>()  a = Relu(x)  y = {operator}(a, c)", left, id=f"{operator} {number}"
            )
            for operator, number, left in [
                ("Add", "0.0", ["Relu"]),
                ("Sub", "0.0", ["Relu"]),
                ("Mul", "1.0", ["Relu"]),
                ("Div", "1.0", ["Relu"]),
                ("Add", "1e-12", ["Relu", "Add"]),
                ("Sub", "1e-8", ["Relu", "Sub"]),
                ("Mul", "1.000001", ["Relu", "Mul"]),
                ("Div", "0.999999", ["Relu", "Div"]),
            ]
        ),
    ],
)
def test_fewer_nodes_compute_the_same(body: str, left: list[str]) -> None:
    proto = parse_model(f"{HEADER} g (float[2, 3, 4] x) => (float y) {{ {body} }}")
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    expected = ReferenceEvaluator(copy.deepcopy(proto)).run(None, {"x": X})[0]
    model = ir.serde.deserialize_model(proto)
    simplify(model)
    assert [node.op_type for node in model.graph] == left
    np.testing.assert_array_equal(ReferenceEvaluator(ir.serde.serialize_model(model)).run(None, {"x": X})[0], expected)


@pytest.mark.parametrize("epsilon", [1e-8, 1e-12, 1e-30])
def test_a_small_number_that_prevents_a_division_by_zero_stays(epsilon: float, tmp_path: Path) -> None:
    class Normalized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(x) / (self.a(x).relu().sum(-1, keepdim=True) + epsilon)

    torch.manual_seed(0)
    model, x = Normalized().eval(), torch.randn(8, 8)
    with torch.no_grad():
        model.a.bias.zero_()
    graph = qpass.quantize_graph(model, [x], "w8a8", progress=False)
    path = qpass.export_onnx(graph, tmp_path / "m.onnx")
    zero = torch.zeros(1, 8)
    torch.testing.assert_close(qpass.onnxruntime_model(graph, path)(zero), graph(zero))


def test_what_a_rule_raises_is_a_lowering_error(
    quantized: fx.GraphModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(model: ir.Model) -> None:
        raise KeyError("a shape")

    monkeypatch.setattr("qpass.backends.onnx_qdq.to_onnx.simplify", fails)
    with pytest.raises(LoweringError, match="cannot export the graph: 'a shape'"):
        qpass.export_onnx(quantized, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_work_grows_as_the_graph_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in looks at the kind of a node, of which a rule for two nodes at once takes one for each pair."""
    looks = 0
    kind = ir.Node.op_identifier

    def counted(node: ir.Node) -> ir.OperatorIdentifier:
        nonlocal looks
        looks += 1
        return kind(node)

    def work(length: int) -> int:
        nonlocal looks
        looks = 0
        nodes = [helper.make_node("Relu" if i % 2 else "Neg", [f"v{i}"], [f"v{i + 1}"]) for i in range(length)]
        ends = [helper.make_tensor_value_info(f"v{i}", 1, [2]) for i in (0, length)]
        graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:])
        simplify(ir.serde.deserialize_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])))
        return looks

    monkeypatch.setattr(ir.Node, "op_identifier", counted)
    assert 0 < work(400) < 3 * work(200)
    monkeypatch.setattr(module, "_RULES", (*module._RULES, module.rules.slice_split_rule))
    assert work(400) > 3 * work(200), "onnxscript has mended the rule: it may be taken again"
