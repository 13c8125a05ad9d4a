"""QuantizeLinear(Move(Mul(Cast(MatMulInteger(a, b)), s))) -> Move(QLinearMatMul(a, b)).

The output of attention is never float. Casting, scaling, moving and quantizing floats costs more
than the product itself. Requantized in the kernel, the output is bytes.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qpass.backends.onnx_qdq.emit import Emitter
from qpass.backends.onnx_qdq.onnx_rule import onnx_rule
from qpass.backends.onnx_qdq.rules.patterns import only_reader_below, rescaled_product, scalar
from qpass.graph.rewrite import Decline

#: Of the movements, those that take the attention heads apart and together.
_MOVEMENTS = ("Reshape", "Transpose")


@onnx_rule("QuantizeLinear", suffix="requantized")
def integer_output(quantize: ir.Node, emit: Emitter) -> ir.Value | None:
    """Quantizes in the product's kernel, and moves codes."""
    x, scale, zero_point = quantize.inputs[:3]
    moves = []
    while (below := only_reader_below(x, *_MOVEMENTS)) is not None:
        moves.append(below)
        x = below.inputs[0]
    rescale = rescaled_product(x)
    if rescale is None:
        return None
    if scalar(scale) is None:
        raise Decline("its output has a scale for each channel")
    if zero_point is None or zero_point.dtype != ir.DataType.UINT8:
        raise Decline("its codes are signed: onnxruntime has no kernel with an int8 output for uint8 x int8")
    product, factor = rescale
    a, b, a_zero, b_zero = product.inputs
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
    return codes
