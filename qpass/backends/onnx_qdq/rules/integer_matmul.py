"""MatMul(DQ(a), DQ(b)) -> Mul(Cast(MatMulInteger(a, b)), s_a s_b), if a and b have one scale each.

onnxruntime fuses the QDQ form only with a session option. These operators are integer everywhere.
Later rules look for Cast and Mul; the last one, ``dequantize_sums``, merges them to one
DequantizeLinear where it can.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qpass.backends.onnx_qdq.emit import Emitter
from qpass.backends.onnx_qdq.rules.patterns import BYTES, rescaled, scalar


def integer_matmul(graph: ir.Graph) -> int:
    """Applies the rule everywhere."""
    return sum(_rewrite(graph, node) for node in list(graph) if node.op_type == "MatMul")


def _rewrite(graph: ir.Graph, node: ir.Node) -> bool:
    sides = [value.producer() if value is not None else None for value in node.inputs]
    if any(side is None or side.op_type != "DequantizeLinear" or len(side.inputs) != 3 for side in sides):
        return False
    (a, a_scale, a_zero), (b, b_scale, b_zero) = (side.inputs for side in sides if side is not None)
    scales = [scalar(a_scale), scalar(b_scale)]
    # A constant operand is a weight and fuses as QDQ.
    if None in scales or a is None or b is None or b.is_initializer() or b.dtype not in BYTES:
        return False
    emit = Emitter(graph, f"{node.outputs[0].name}.integer")
    product = emit.op("MatMulInteger", [a, b, a_zero, b_zero], dtype=ir.DataType.INT32, shape=node.outputs[0].shape)
    rescale = emit.constant("rescale", np.array(np.prod(np.array(scales, np.float64)), np.float32))
    emit.replace(node, rescaled(product, rescale, emit))
    return True
