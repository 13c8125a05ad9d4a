"""MatMul(DQ(a) + c, b) -> MatMul(DQ(a), b) + c ReduceSum(b, rows), for a scalar c.

Products stay integer with an affine quantizer.
"""

from __future__ import annotations

import onnx_ir as ir

from qpass.backends.onnx_qdq.emit import Emitter
from qpass.backends.onnx_qdq.rules.patterns import only_reader_below, scalar


def offset_matmul(graph: ir.Graph) -> int:
    """Applies the rule everywhere."""
    return sum(_rewrite(graph, node) for node in list(graph) if node.op_type == "MatMul")


def _rewrite(graph: ir.Graph, node: ir.Node) -> bool:
    add = only_reader_below(node.inputs[0], "Add")
    dequantize = None if add is None else only_reader_below(add.inputs[0], "DequantizeLinear")
    b = node.inputs[1]
    if add is None or dequantize is None or b is None or scalar(add.inputs[1]) is None or b.is_initializer():
        return False
    emit = Emitter(graph, f"{node.outputs[0].name}.offset")
    product = emit.op("MatMul", [dequantize.outputs[0], b], dtype=node.outputs[0].dtype, shape=node.outputs[0].shape)
    rows = emit.op("ReduceSum", [b, emit.constant("row_axis", [-2])], {"keepdims": 1})
    emit.replace(node, emit.op("Add", [product, emit.op("Mul", [rows, add.inputs[1]])]))
    return True
