"""Mul(Cast(MatMulInteger(a, b)), s) -> com.microsoft.MatMulIntegerToFloat(a, b, s, 1).

The kernel scales its own sums. For onnxruntime only. It fuses Q/DQ pairs with a weight to this
operator itself, but not those of two activations.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qpass.backends.onnx_qdq.emit import CONTRIB_DOMAIN, Emitter
from qpass.backends.onnx_qdq.rules.patterns import product_below


def contrib_matmul(graph: ir.Graph) -> int:
    """Applies the rule everywhere."""
    return sum(_rewrite(graph, node) for node in list(graph) if node.op_type == "Mul")


def _rewrite(graph: ir.Graph, node: ir.Node) -> bool:
    rescaled = product_below(node)
    if rescaled is None:
        return False
    a, b, a_zero, b_zero = rescaled[0].inputs
    emit = Emitter(graph, f"{node.outputs[0].name}.contrib")
    one = emit.constant("one", np.array(1.0, np.float32))
    inputs = [a, b, node.inputs[1], one, a_zero, b_zero]
    emit.replace(node, emit.op("MatMulIntegerToFloat", inputs, domain=CONTRIB_DOMAIN))
    return True
