"""Pattern matching shared by several rules."""

from __future__ import annotations

from typing import NamedTuple

import onnx_ir as ir

from qpass.backends.onnx_qdq.emit import Emitter
from qpass.graph.rewrite import Decline

#: Data types of codes.
BYTES = (ir.DataType.INT8, ir.DataType.UINT8)
#: Operators that move or repeat values; ``dequantize_after_movement`` moves a DQ across them.
MOVEMENTS = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Slice", "Flatten", "Identity")


def only_reader_below(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """Returns the node that computes ``value``, or None if it is not one of these operators.

    Raises:
        Decline: If it is, but something else reads the value too.
    """
    node = value.producer() if value is not None else None
    if value is None or node is None or node.op_type not in op_types:
        return None
    if len(value.uses()) != 1 or value.is_graph_output():
        raise Decline(f"something else reads the {node.op_type} below it")
    return node


def scalar(value: ir.Value | None) -> float | None:
    """Returns the number in a one-element constant, or None."""
    if value is None or value.const_value is None or value.const_value.size != 1:
        return None
    return float(value.const_value.numpy().reshape(()))


def rescaled(product: ir.Value, scale: ir.Value, emit: Emitter) -> ir.Value:
    """Emits Mul(Cast(product), scale), the float value of an integer product."""
    as_float = emit.op("Cast", [product], {"to": ir.DataType.FLOAT}, dtype=ir.DataType.FLOAT, shape=product.shape)
    return emit.op("Mul", [as_float, scale])


def rescaled_product(value: ir.Value | None) -> tuple[ir.Node, float] | None:
    """Returns the four-input MatMulInteger that ``value`` rescales, and the scale; each has one reader."""
    rescale = only_reader_below(value, "Mul")
    return None if rescale is None else product_below(rescale)


def product_below(rescale: ir.Node) -> tuple[ir.Node, float] | None:
    """Returns the four-input MatMulInteger that a Mul rescales and the scale; any node may read the Mul."""
    cast, scale = only_reader_below(rescale.inputs[0], "Cast"), scalar(rescale.inputs[1])
    product = None if cast is None else only_reader_below(cast.inputs[0], "MatMulInteger")
    return None if product is None or scale is None or len(product.inputs) != 4 else (product, scale)


class WeightProduct(NamedTuple):
    """DQ(x) @ DQ(w): x has a single scale; w has shape (rows, columns) and one scale per column."""

    x: ir.Value
    x_scale: ir.Value
    x_zero: ir.Value
    w: ir.Value
    w_scale: ir.Value
    w_zero: ir.Value | None


def weight_product(value: ir.Value | None) -> WeightProduct | None:
    """Returns the product of codes and a weight that computes ``value``, or None for others.

    Raises:
        Decline: If something else reads the product too.
    """
    matmul = value.producer() if value is not None else None
    sides = [] if matmul is None else [side.producer() for side in matmul.inputs if side is not None]
    if len(sides) != 2 or any(side is None or side.op_type != "DequantizeLinear" for side in sides):
        return None
    if only_reader_below(value, "MatMul") is None:
        return None
    (x, x_scale, *x_zero), (w, w_scale, *w_zero) = (side.inputs for side in sides if side is not None)
    if x is None or x_scale is None or w is None or w_scale is None or not x_zero or x_zero[0] is None:
        return None
    if scalar(x_scale) is None or w_scale.const_value is None or len(w_scale.const_value.shape) != 1:
        return None
    return WeightProduct(x, x_scale, x_zero[0], w, w_scale, w_zero[0] if w_zero else None)
