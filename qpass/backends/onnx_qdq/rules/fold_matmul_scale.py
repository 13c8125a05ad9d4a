"""Mul(Mul(Cast(MatMulInteger), c1), c2) -> Mul(Cast(MatMulInteger), c1 c2) for scalars.

Scaling by 1/sqrt(d) becomes free.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qpass.backends.onnx_qdq.emit import Emitter
from qpass.backends.onnx_qdq.onnx_rule import onnx_rule
from qpass.backends.onnx_qdq.rules.patterns import rescaled, rescaled_product, scalar
from qpass.graph.rewrite import Decline


@onnx_rule("Mul", suffix="scaled")
def fold_matmul_scale(node: ir.Node, emit: Emitter) -> ir.Value | None:
    """Merges a factor with the scale of an integer product."""
    rescale = rescaled_product(node.inputs[0])
    if rescale is None:
        return None
    product, scale = rescale
    factor = scalar(node.inputs[1])
    if factor is None:
        raise Decline("its product is multiplied by more than one number")
    dims = [value.shape for value in (node.inputs[1], product.outputs[0]) if value is not None]
    if dims[1] is None or dims[0] is None or len(dims[0]) > len(dims[1]):
        raise Decline("its factor adds dims to the product, or may add some")
    return rescaled(product.outputs[0], emit.constant("rescale", np.array(scale * factor, np.float32)), emit)
