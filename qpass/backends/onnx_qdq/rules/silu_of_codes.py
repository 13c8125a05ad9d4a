"""x * Sigmoid(x), x = DequantizeLinear -> the same, in a form that onnxruntime runs as one QuickGelu.

onnxruntime repeats a DequantizeLinear for each of its readers. Sigmoid and Mul then read two
tensors, which its fusion does not take for one.
"""

from __future__ import annotations

import onnx_ir as ir

from qpass.backends.onnx_qdq.emit import CONTRIB_DOMAIN, Emitter
from qpass.backends.onnx_qdq.onnx_rule import onnx_rule


@onnx_rule("Mul", suffix="once")
def silu_of_codes(node: ir.Node, emit: Emitter) -> ir.Value | None:
    """Reads the DequantizeLinear once, by a Sum of one term."""
    x = _silu_of_codes(node)
    if x is None:
        return None
    once = emit.op("Sum", [x])
    return emit.op("Mul", [once, emit.op("Sigmoid", [once])])


@onnx_rule("Mul", suffix="silu")
def contrib_silu(node: ir.Node, emit: Emitter) -> ir.Value | None:
    """Writes the QuickGelu itself."""
    x = _silu_of_codes(node)
    return None if x is None else emit.op("QuickGelu", [x], {"alpha": 1.0}, domain=CONTRIB_DOMAIN)


def _silu_of_codes(node: ir.Node) -> ir.Value | None:
    """Returns the dequantized input of x * Sigmoid(x) that a Mul computes; None for any other."""
    for x, sigmoid in (tuple(node.inputs), tuple(reversed(node.inputs))):
        gate, source = (None if value is None else value.producer() for value in (sigmoid, x))
        if gate is None or gate.op_type != "Sigmoid" or gate.inputs[0] is not x or gate.outputs[0].is_graph_output():
            continue
        if len(gate.outputs[0].uses()) == 1 and source is not None and source.op_type == "DequantizeLinear":
            return x
    return None
