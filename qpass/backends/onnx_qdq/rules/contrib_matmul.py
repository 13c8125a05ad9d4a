"""Mul(Cast(MatMulInteger(a, b)), s) -> com.microsoft.MatMulIntegerToFloat(a, b, s, 1): the kernel scales what it adds up.

For onnxruntime alone: it makes this operator of Q/DQ pairs with a weight itself, but not of two activations.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qpass.backends.onnx_qdq.emit import Emitter
from qpass.backends.onnx_qdq.rules.patterns import only_reader_below, scalar


def contrib_matmul(graph: ir.Graph) -> int:
    """Applies the rule everywhere."""
    return sum(_rewrite(graph, node) for node in list(graph) if node.op_type == "Mul")


def _rewrite(graph: ir.Graph, node: ir.Node) -> bool:
    cast, scale = only_reader_below(node.inputs[0], "Cast"), node.inputs[1]
    product = None if cast is None else only_reader_below(cast.inputs[0], "MatMulInteger")
    if product is None or scalar(scale) is None or len(product.inputs) != 4:
        return False
    a, b, a_zero, b_zero = product.inputs
    emit = Emitter(graph, f"{node.outputs[0].name}.contrib")
    one = emit.constant("one", np.array(1.0, np.float32))
    inputs = [a, b, scale, one, a_zero, b_zero]
    emit.replace(node, emit.op("MatMulIntegerToFloat", inputs, domain="com.microsoft"))
    return True
