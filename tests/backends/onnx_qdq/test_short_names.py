from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
from torch import fx

from qpass.backends.onnx_qdq.short_names import shorten_names
from qpass.nn import QuantizedLinear


def test_values_are_numbered_and_nodes_keep_their_layer_s_name(exported: Path, quantized: fx.GraphModule) -> None:
    graph = onnx.load(exported).graph
    given = {value.name for value in graph.output}
    inner = [name for node in graph.node for name in node.output if name not in given and not name.endswith(".codes")]
    assert max(map(len, inner)) < 5
    assert len({*inner}) == len(inner) > 50
    linears = {name for name, module in quantized.named_children() if isinstance(module, QuantizedLinear)}
    assert linears == {node.name.rpartition(".")[0] for node in graph.node if node.op_type == "MatMul"} & linears
    assert len({node.name for node in graph.node}) == len(graph.node)


def test_names_that_are_there_are_not_given_again() -> None:
    x, kept = (ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1])) for name in ("_0", "_1"))
    first = ir.node("Neg", [x], outputs=[ir.Value(name="layer.neg_0")], name="layer.neg_0.node")
    codes = ir.node("Neg", [first.outputs[0]], outputs=[ir.Value(name="q.codes")], name="other")
    last = ir.node("Neg", [codes.outputs[0]], outputs=[kept])
    graph = ir.Graph([x], [kept], nodes=[first, codes, last])
    shorten_names(graph)
    assert [node.outputs[0].name for node in graph] == ["_2", "q.codes", "_1"]
    assert (first.name, codes.name) == ("layer.neg_0", "other")
