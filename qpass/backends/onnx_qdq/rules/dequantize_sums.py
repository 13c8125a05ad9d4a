"""Mul(Cast(MatMulInteger(a, b)), s) -> DequantizeLinear(MatMulInteger(a, b), s): one pass, not two.

Applies only where no reader moves the floats: onnxruntime moves a DequantizeLinear across a
Transpose or a Reshape by adding a QuantizeLinear to int32, for which it has no kernel.
"""

from __future__ import annotations

import onnx_ir as ir

from qpass.backends.onnx_qdq.emit import Emitter
from qpass.backends.onnx_qdq.onnx_rule import onnx_rule
from qpass.backends.onnx_qdq.rules.patterns import product_below
from qpass.graph.rewrite import Decline

#: Operators that read attention logits.
_READERS = ("Softmax", "LogSoftmax", "Add", "Where")


@onnx_rule("Mul", suffix="dequantized")
def dequantize_sums(rescale: ir.Node, emit: Emitter) -> ir.Value | None:
    """Merges the Cast and the Mul behind an integer product."""
    value, found = rescale.outputs[0], product_below(rescale)
    if found is None:
        return None
    if value.is_graph_output():
        raise Decline("its product is an output of the network")
    if others := sorted({use.node.op_type for use in value.uses()} - set(_READERS)):
        raise Decline(f"its product is read by {', '.join(others)}")
    return emit.op("DequantizeLinear", [found[0].outputs[0], rescale.inputs[1]])
