"""Y (an output) -> Transpose -> QuantizeLinear  becomes  Y' -> Transpose -> QuantizeLinear, and Y = Identity(Y').

onnxruntime moves a Q/DQ pair in front of the operators that only move values. Where their input is also an output of the
network, that output would be quantized too (seen in 1.31 and 1.32).
"""

from __future__ import annotations

import onnx_ir as ir

#: Operators that onnxruntime moves a pair across.
_MOVES = {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Flatten", "MaxPool"}


def separate_outputs(graph: ir.Graph) -> None:
    """Gives every such output a node of its own, in place. Names of outputs stay."""
    for index, value in enumerate(graph.outputs):
        if value.producer() is None or not any(node.op_type in _MOVES for node, _ in value.uses()):
            continue
        node = ir.node("Identity", [value])
        graph.append(node)
        output = node.outputs[0]
        output.shape, output.type = value.shape, value.type
        value.name, output.name = f"{value.name}_inner", value.name
        graph.outputs[index] = output
