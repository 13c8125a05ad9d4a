"""Mul(Mul(Cast(MatMulInteger), c1), c2) -> Mul(Cast(MatMulInteger), c1 c2) for scalars.

Scaling by 1/sqrt(d) becomes free.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qpass.backends.onnx_qdq.emit import Emitter
from qpass.backends.onnx_qdq.rules.patterns import rescaled, rescaled_product, scalar


def fold_matmul_scale(graph: ir.Graph) -> int:
    """Applies the rule everywhere."""
    return sum(_fold(graph, node) for node in list(graph) if node.op_type == "Mul")


def _fold(graph: ir.Graph, node: ir.Node) -> bool:
    factor, rescale = scalar(node.inputs[1]), rescaled_product(node.inputs[0])
    if factor is None or rescale is None:
        return False
    product, scale = rescale
    dims = [value.shape for value in (node.inputs[1], product.outputs[0]) if value is not None]
    if dims[1] is None or dims[0] is None or len(dims[0]) > len(dims[1]):  # a scalar with more dims than the product adds dims
        return False
    emit = Emitter(graph, f"{node.outputs[0].name}.scaled")
    emit.replace(node, rescaled(product.outputs[0], emit.constant("rescale", np.array(scale * factor, np.float32)), emit))
    return True
