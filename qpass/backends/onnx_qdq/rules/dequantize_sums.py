"""Mul(Cast(MatMulInteger(a, b)), s) -> DequantizeLinear(MatMulInteger(a, b), s): one pass, not two.

Applies only where no reader moves the floats: onnxruntime moves a DequantizeLinear across a
Transpose or a Reshape by adding a QuantizeLinear to int32, for which it has no kernel.
"""

from __future__ import annotations

import onnx_ir as ir

from qpass.backends.onnx_qdq.emit import Emitter
from qpass.backends.onnx_qdq.rules.patterns import product_below

#: Operators that read attention logits.
_READERS = ("Softmax", "LogSoftmax", "Add", "Where")


def dequantize_sums(graph: ir.Graph) -> int:
    """Applies the rule everywhere."""
    return sum(_rewrite(graph, node) for node in list(graph) if node.op_type == "Mul")


def _rewrite(graph: ir.Graph, rescale: ir.Node) -> bool:
    value, found = rescale.outputs[0], product_below(rescale)
    if found is None or value.is_graph_output() or any(use.node.op_type not in _READERS for use in value.uses()):
        return False
    product, _ = found
    emit = Emitter(graph, f"{value.name}.dequantized")
    emit.replace(rescale, emit.op("DequantizeLinear", [product.outputs[0], rescale.inputs[1]]))
    return True
