"""Log(Softmax(x)) -> LogSoftmax(x): one pass instead of two, and no log of zero.

Applies only if the Softmax has no other reader.
"""

from __future__ import annotations

import onnx_ir as ir

from qpass.backends.onnx_qdq.emit import Emitter
from qpass.backends.onnx_qdq.rules.patterns import only_reader_below


def log_softmax(graph: ir.Graph) -> int:
    """Applies the rule everywhere."""
    done = 0
    for node in list(graph):
        softmax = only_reader_below(node.inputs[0], "Softmax") if node.op_type == "Log" else None
        if softmax is None:
            continue
        emit = Emitter(graph, str(node.outputs[0].name))
        emit.replace(node, emit.op("LogSoftmax", [softmax.inputs[0]], {"axis": softmax.attributes.get_int("axis", -1)}))
        done += 1
    return done
