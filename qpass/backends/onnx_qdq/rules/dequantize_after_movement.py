"""Move(DequantizeLinear(q)) -> DequantizeLinear(Move(q)), with a single scale.

Bytes are moved instead of floats, and DQ ends up next to the matmul.
"""

from __future__ import annotations

import onnx_ir as ir

from qpass.backends.onnx_qdq.emit import Emitter
from qpass.backends.onnx_qdq.onnx_rule import onnx_rule
from qpass.backends.onnx_qdq.rules.patterns import MOVEMENTS
from qpass.graph.rewrite import Decline


@onnx_rule(*MOVEMENTS, suffix="moved")
def dequantize_after_movement(node: ir.Node, emit: Emitter) -> ir.Value | None:
    """Moves a DQ behind one movement. They come in order, so it ends behind the last of a chain."""
    dequantize = node.inputs[0].producer() if node.inputs[0] is not None else None
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return None
    codes, scale = dequantize.inputs[:2]
    if node.outputs[0].is_graph_output():
        raise Decline("what is moved is an output of the network")
    if codes is None or scale is None or scale.shape is None or len(scale.shape):
        raise Decline("what is moved has a scale for each channel")
    moved = emit.op(
        node.op_type, [codes, *node.inputs[1:]], dict(node.attributes), dtype=codes.dtype, shape=node.outputs[0].shape
    )
    return emit.op("DequantizeLinear", [moved, *dequantize.inputs[1:]])
