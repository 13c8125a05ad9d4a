"""MatMul(DQ(a), DQ(b)) -> Mul(Cast(MatMulInteger(a, b)), s_a s_b), if a and b have one scale each.

onnxruntime fuses the QDQ form only with a session option. These operators are integer everywhere.
Later rules look for Cast and Mul; the last one, ``dequantize_sums``, merges them to one
DequantizeLinear where it can.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qpass.backends.onnx_qdq.emit import Emitter
from qpass.backends.onnx_qdq.onnx_rule import onnx_rule
from qpass.backends.onnx_qdq.rules.patterns import BYTES, rescaled, scalar
from qpass.graph.rewrite import Decline


@onnx_rule("MatMul", suffix="integer")
def integer_matmul(node: ir.Node, emit: Emitter) -> ir.Value | None:
    """Multiplies codes."""
    sides = [value.producer() if value is not None else None for value in node.inputs]
    dequantized = [side for side in sides if side is not None and side.op_type == "DequantizeLinear"]
    # A constant operand is a weight and fuses as QDQ.
    if len(dequantized) < 2 or dequantized[1].inputs[0].is_initializer():
        return None
    if any(len(side.inputs) != 3 for side in dequantized):
        raise Decline("a factor of it has no zero point")
    (a, a_scale, a_zero), (b, b_scale, b_zero) = (side.inputs for side in dequantized)
    scales = [scalar(a_scale), scalar(b_scale)]
    if None in scales:
        raise Decline("a factor of it has a scale for each channel")
    if b.dtype not in BYTES:
        raise Decline(f"its second factor is {b.dtype}, not bytes")
    product = emit.op("MatMulInteger", [a, b, a_zero, b_zero], dtype=ir.DataType.INT32, shape=node.outputs[0].shape)
    rescale = emit.constant("rescale", np.array(np.prod(np.array(scales, np.float64)), np.float32))
    return rescaled(product, rescale, emit)
