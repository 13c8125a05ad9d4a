"""Mul(Mul(Cast(MatMulInteger), c1), c2) -> Mul(Cast(MatMulInteger), c1 c2), scalars: 1/sqrt(d) costs nothing."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qpass.backends.onnx_qdq.emit import Emitter
from qpass.backends.onnx_qdq.rules.patterns import only_reader_below, scalar


def fold_matmul_scale(graph: ir.Graph) -> int:
    """Applies the rule everywhere."""
    return sum(_fold(graph, node) for node in list(graph) if node.op_type == "Mul")


def _fold(graph: ir.Graph, node: ir.Node) -> bool:
    outer_scale, inner = scalar(node.inputs[1]), only_reader_below(node.inputs[0], "Mul")
    inner_scale = None if inner is None else scalar(inner.inputs[1])
    cast = None if inner is None else only_reader_below(inner.inputs[0], "Cast")
    if inner is None or cast is None or outer_scale is None or inner_scale is None:
        return False
    if only_reader_below(cast.inputs[0], "MatMulInteger") is None:
        return False
    emit = Emitter(graph, f"{node.outputs[0].name}.scaled")
    factor = emit.constant("rescale", np.array(inner_scale * outer_scale, np.float32))
    emit.replace(node, emit.op("Mul", [inner.inputs[0], factor]))
    return True
