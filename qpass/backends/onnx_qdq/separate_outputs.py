"""Y (an output) -> Transpose -> QuantizeLinear  becomes  Y' -> the same, and Y = Identity(Y').

onnxruntime moves a Q/DQ pair before operators that only move values. If their input is also an
output of the network, that output would be quantized too (seen in 1.31 and 1.32).
"""

from __future__ import annotations

import onnx_ir as ir

#: Operators that onnxruntime moves a Q/DQ pair across.
_MOVES = {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Flatten", "MaxPool"}


def separate_outputs(graph: ir.Graph) -> None:
    """Gives every such output its own Identity node, in place. Output names do not change."""
    for index, value in enumerate(graph.outputs):
        if value.producer() is None or not any(node.op_type in _MOVES for node, _ in value.uses()):
            continue
        node = ir.node("Identity", [value])
        graph.append(node)
        output = node.outputs[0]
        output.shape, output.type = value.shape, value.type
        value.name, output.name = f"{value.name}_inner", value.name
        graph.outputs[index] = output
