"""Rules for ONNX graphs see one node; what they decline is kept with the reason."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from qpass.backends.onnx_qdq.emit import Emitter
from qpass.backends.onnx_qdq.onnx_rule import onnx_rule
from qpass.backends.onnx_qdq.rules import (
    dequantize_after_movement,
    dequantize_sums,
    integer_matmul,
    integer_output,
    log_softmax,
    offset_matmul,
)
from qpass.backends.onnx_qdq.targets import TARGETS
from qpass.graph.rewrite import Decline, NearMatch, Outcome
from tests.backends.onnx_qdq.rules.rule_case import CODES, INTEGER, PRODUCT


def test_it_replaces_counts_and_keeps_the_reason() -> None:
    @onnx_rule("Relu", suffix="new")
    def leaky(node: ir.Node, emit: Emitter) -> ir.Value | None:
        if node.outputs[0].is_graph_output():
            raise Decline("it is an output")
        return emit.op("LeakyRelu", [node.inputs[0]])

    x = ir.Value(name="x")
    first, second = ir.node("Relu", [x], name="first"), ir.node("Relu", [x], name="second")
    for node in (first, second):
        node.outputs[0].name = f"{node.name}_out"
    total = ir.node("Add", [first.outputs[0], second.outputs[0]])
    graph = ir.Graph([x], [second.outputs[0], total.outputs[0]], nodes=[first, second, total])
    outcome = leaky.apply(graph)
    assert (outcome.count, outcome.declined) == (1, (NearMatch("leaky", "second", "", "it is an output"),))
    assert [node.op_type for node in graph] == ["LeakyRelu", "Relu", "Add"]
    assert graph[0].name == "first_out.new.leakyrelu_0.node"


NEAR = {
    "read twice": (log_softmax, "(float[2,5] x) => (float[2,5] y)", "p = Softmax<axis=-1>(x)\n l = Log(p)\n y = Mul(l, p)"),
    "an output": (
        dequantize_after_movement,
        "(uint8[2,3] a) => (float[3,2] y)",
        "f = DequantizeLinear(a, sa, za)\n y = Transpose<perm=[1,0]>(f)",
    ),
    "an offset": (
        offset_matmul,
        "(uint8[2,3,4] a, int8[2,4,5] b, float[2,3,4] o) => (float[2,3,5] y)",
        PRODUCT.replace("y = MatMul(fa, fb)", "s = Add(fa, o)\n y = MatMul(s, fb)"),
    ),
    "moved": (
        dequantize_sums,
        "(uint8[2,3,4] a, int8[2,4,5] b) => (float[2,5,3] y)",
        INTEGER + "y = Transpose<perm=[0,2,1]>(m)",
    ),
    "signed codes": (
        integer_output,
        "(uint8[3,4] a, int8[4,5] b) => (int8[3,5] y)",
        INTEGER + "y = QuantizeLinear(m, sy, zb)",
    ),
    "no zero point": (
        integer_matmul,
        "(uint8[2,3,4] a, int8[2,4,5] b) => (float[2,3,5] y)",
        PRODUCT.replace("(b, sb, zb)", "(b, sb)"),
    ),
}
REASONS = {
    "read twice": "something else reads the Softmax below it",
    "an output": "what is moved is an output of the network",
    "an offset": "what is added to its codes is more than one number",
    "moved": "its product is read by Transpose",
    "signed codes": "its codes are signed: onnxruntime has no kernel with an int8 output for uint8 x int8",
    "no zero point": "a factor of it has no zero point",
}


@pytest.mark.parametrize("case", NEAR)
def test_a_rule_that_nearly_matches_says_why_and_changes_nothing(case: str) -> None:
    rule, signature, body = NEAR[case]
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> g {signature} <{CODES}> {{ {body} }}')
    graph = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(model)).graph
    before = [node.op_type for node in graph], sorted(graph.initializers)
    outcome = rule.apply(graph)
    assert outcome.count == 0
    assert [(near.rule, near.reason) for near in outcome.declined] == [(rule.name, REASONS[case])]
    assert ([node.op_type for node in graph], sorted(graph.initializers)) == before


def test_nodes_that_are_something_else_are_not_mentioned() -> None:
    body = "t = Transpose<perm=[1,0]>(x)\n s = Mul(t, c)\n m = MatMul(s, x)\n y = Add(m, m)"
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 21]> g (float[2,3] x) => (float[3,3] y) <{CODES}> {{ {body} }}'
    )
    graph = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(model)).graph
    for target in TARGETS.values():
        for rule in target.rules:
            assert rule.apply(graph) == Outcome(0, ())
