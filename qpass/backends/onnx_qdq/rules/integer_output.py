"""QuantizeLinear(Move(Mul(Cast(MatMulInteger(a, b)), s))) -> Move(QLinearMatMul(a, b)).

The output of attention is never float. Casting, scaling, moving and quantizing floats costs more
than the product itself. Requantized in the kernel, the output is bytes.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qpass.backends.onnx_qdq.emit import Emitter
from qpass.backends.onnx_qdq.rules.patterns import only_reader_below, rescaled_product, scalar

_MOVEMENTS = ("Reshape", "Transpose")


def integer_output(graph: ir.Graph) -> int:
    """Applies the rule everywhere."""
    return sum(_rewrite(graph, node) for node in list(graph) if node.op_type == "QuantizeLinear")


def _rewrite(graph: ir.Graph, quantize: ir.Node) -> bool:
    x, scale, zero_point = quantize.inputs[:3]
    # onnxruntime has no kernel with an int8 output for uint8 x int8.
    if scalar(scale) is None or zero_point is None or zero_point.dtype != ir.DataType.UINT8:
        return False
    moves = []
    while (below := only_reader_below(x, *_MOVEMENTS)) is not None:
        moves.append(below)
        x = below.inputs[0]
    rescale = rescaled_product(x)
    if rescale is None:
        return False
    product, factor = rescale
    a, b, a_zero, b_zero = product.inputs
    emit = Emitter(graph, f"{quantize.outputs[0].name}.requantized")
    factors = [emit.constant(name, np.array(value, np.float32)) for name, value in (("rescale", factor), ("one", 1.0))]
    codes = emit.op(
        "QLinearMatMul",
        [a, factors[0], a_zero, b, factors[1], b_zero, scale, zero_point],
        dtype=zero_point.dtype,
        shape=product.outputs[0].shape,
    )
    for move in reversed(moves):
        shape = move.outputs[0].shape
        codes = emit.op(move.op_type, [codes, *move.inputs[1:]], dict(move.attributes), dtype=zero_point.dtype, shape=shape)
    emit.replace(quantize, codes)
    return True
