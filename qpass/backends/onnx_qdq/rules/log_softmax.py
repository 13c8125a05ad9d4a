"""Log(Softmax(x)) -> LogSoftmax(x): one pass instead of two, and no log of zero."""

from __future__ import annotations

import onnx_ir as ir

from qpass.backends.onnx_qdq.emit import Emitter
from qpass.backends.onnx_qdq.onnx_rule import onnx_rule
from qpass.backends.onnx_qdq.rules.patterns import only_reader_below


@onnx_rule("Log")
def log_softmax(node: ir.Node, emit: Emitter) -> ir.Value | None:
    """Merges a Log with the Softmax below it, if nothing else reads that."""
    softmax = only_reader_below(node.inputs[0], "Softmax")
    if softmax is None:
        return None
    return emit.op("LogSoftmax", [softmax.inputs[0]], {"axis": softmax.attributes.get_int("axis", -1)})
