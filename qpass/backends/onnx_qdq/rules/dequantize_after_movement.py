"""Move(DequantizeLinear(q)) -> DequantizeLinear(Move(q)), with a single scale.

Bytes are moved instead of floats, and DQ ends up next to the matmul.
"""

from __future__ import annotations

import onnx_ir as ir

from qpass.backends.onnx_qdq.emit import Emitter

MOVEMENTS = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Slice", "Flatten", "Identity")


def dequantize_after_movement(graph: ir.Graph) -> int:
    """Applies the rule until nothing changes: each step moves a DQ closer to the outputs."""
    done = 0
    while moved := sum(_move(graph, node) for node in list(graph) if node.op_type in MOVEMENTS):
        done += moved
    return done


def _move(graph: ir.Graph, node: ir.Node) -> bool:
    dequantize = node.inputs[0].producer() if node.inputs[0] is not None else None
    if dequantize is None or dequantize.op_type != "DequantizeLinear" or node.outputs[0].is_graph_output():
        return False
    codes, scale = dequantize.inputs[:2]
    if codes is None or scale is None or scale.shape is None or len(scale.shape):
        return False
    emit = Emitter(graph, f"{node.outputs[0].name}.moved")
    moved = emit.op(
        node.op_type, [codes, *node.inputs[1:]], dict(node.attributes), dtype=codes.dtype, shape=node.outputs[0].shape
    )
    emit.replace(node, emit.op("DequantizeLinear", [moved, *dequantize.inputs[1:]]))
    return True
