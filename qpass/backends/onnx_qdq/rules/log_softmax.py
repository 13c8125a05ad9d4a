"""Log(Softmax(x)) -> LogSoftmax(x), where the Softmax has no other reader: one pass instead of two, and no log of zero."""

from __future__ import annotations

import onnx_ir as ir

from qpass.backends.onnx_qdq.emit import Emitter


def log_softmax(graph: ir.Graph) -> int:
    """Applies the rule everywhere."""
    done = 0
    for node in list(graph):
        if node.op_type != "Log" or node.inputs[0] is None:
            continue
        softmax = node.inputs[0].producer()
        if softmax is None or softmax.op_type != "Softmax" or len(node.inputs[0].uses()) != 1:
            continue
        emit = Emitter(graph, str(node.outputs[0].name))
        emit.replace(node, emit.op("LogSoftmax", [softmax.inputs[0]], {"axis": softmax.attributes.get_int("axis", -1)}))
        done += 1
    return done
