"""Mul(Cast(MatMulInteger(a, b)), s) -> com.microsoft.MatMulIntegerToFloat(a, b, s, 1).

The kernel scales its own sums. For onnxruntime only. It fuses Q/DQ pairs with a weight to this
operator itself, but not those of two activations.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qpass.backends.onnx_qdq.emit import CONTRIB_DOMAIN, Emitter
from qpass.backends.onnx_qdq.onnx_rule import onnx_rule
from qpass.backends.onnx_qdq.rules.patterns import product_below


@onnx_rule("Mul", suffix="contrib")
def contrib_matmul(node: ir.Node, emit: Emitter) -> ir.Value | None:
    """Merges an integer product with its scale."""
    rescaled = product_below(node)
    if rescaled is None:
        return None
    a, b, a_zero, b_zero = rescaled[0].inputs
    one = emit.constant("one", np.array(1.0, np.float32))
    inputs = [a, b, node.inputs[1], one, a_zero, b_zero]
    return emit.op("MatMulIntegerToFloat", inputs, domain=CONTRIB_DOMAIN)
