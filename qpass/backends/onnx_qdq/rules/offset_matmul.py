"""MatMul(DQ(a) + c, b) -> MatMul(DQ(a), b) + c ReduceSum(b, rows), for a scalar c.

Products stay integer with an affine quantizer.
"""

from __future__ import annotations

import onnx_ir as ir

from qpass.backends.onnx_qdq.emit import Emitter
from qpass.backends.onnx_qdq.onnx_rule import onnx_rule
from qpass.backends.onnx_qdq.rules.patterns import only_reader_below, scalar
from qpass.graph.rewrite import Decline


@onnx_rule("MatMul", suffix="offset")
def offset_matmul(node: ir.Node, emit: Emitter) -> ir.Value | None:
    """Takes an offset out of a product with an activation."""
    add, b = only_reader_below(node.inputs[0], "Add"), node.inputs[1]
    dequantize = None if add is None else only_reader_below(add.inputs[0], "DequantizeLinear")
    if add is None or dequantize is None or b is None or b.is_initializer():
        return None
    if scalar(add.inputs[1]) is None:
        raise Decline("what is added to its codes is more than one number")
    product = emit.op("MatMul", [dequantize.outputs[0], b], dtype=node.outputs[0].dtype, shape=node.outputs[0].shape)
    rows = emit.op("ReduceSum", [b, emit.constant("row_axis", [-2])], {"keepdims": 1})
    return emit.op("Add", [product, emit.op("Mul", [rows, add.inputs[1]])])
