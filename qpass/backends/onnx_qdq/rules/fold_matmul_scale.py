"""Mul(Mul(Cast(MatMulInteger), c1), c2) -> Mul(Cast(MatMulInteger), c1 c2), scalars: 1/sqrt(d) costs nothing."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qpass.backends.onnx_qdq.emit import Emitter


def fold_matmul_scale(graph: ir.Graph) -> int:
    """Applies the rule everywhere."""
    return sum(_fold(graph, node) for node in list(graph) if node.op_type == "Mul")


def _fold(graph: ir.Graph, node: ir.Node) -> bool:
    inner, outer_scale = node.inputs[0], _scalar(node.inputs[1])
    below = inner.producer() if inner is not None else None
    if below is None or below.op_type != "Mul" or outer_scale is None or inner is None or len(inner.uses()) != 1:
        return False
    cast = below.inputs[0].producer() if below.inputs[0] is not None else None
    inner_scale = _scalar(below.inputs[1])
    if inner_scale is None or cast is None or cast.op_type != "Cast":
        return False
    integer = cast.inputs[0].producer() if cast.inputs[0] is not None else None
    if integer is None or integer.op_type != "MatMulInteger":
        return False
    emit = Emitter(graph, f"{node.outputs[0].name}.scaled")
    factor = emit.constant("rescale", np.array(inner_scale * outer_scale, np.float32))
    emit.replace(node, emit.op("Mul", [below.inputs[0], factor]))
    return True


def _scalar(value: ir.Value | None) -> float | None:
    if value is None or value.const_value is None or value.const_value.size != 1:
        return None
    return float(value.const_value.numpy().reshape(()))
