"""Add(MatMul(DQ(x), DQ(w)), bias) -> com.microsoft.MatMulIntegerToFloat(x, w, ..., bias).

The bias needs no separate pass. onnxruntime itself fuses the Q/DQ pairs to the same operator, but
leaves the Add, or fuses the Add with a following Gelu to an operator that is slower than the Gelu
alone (benchmarks/results/latency.md has both targets).
"""

from __future__ import annotations

import onnx_ir as ir

from qpass.backends.onnx_qdq.emit import CONTRIB_DOMAIN, Emitter
from qpass.backends.onnx_qdq.onnx_rule import onnx_rule
from qpass.backends.onnx_qdq.rules.patterns import BYTES, weight_product
from qpass.graph.rewrite import Decline


@onnx_rule("Add", suffix="contrib")
def contrib_linear(add: ir.Node, emit: Emitter) -> ir.Value | None:
    """Merges a product of codes and a weight with its bias."""
    product, bias = weight_product(add.inputs[0]), add.inputs[1]
    if product is None or bias is None:
        return None
    columns = product.w_scale.const_value
    if bias.const_value is None or columns is None or not _is_row(bias.const_value, columns.size, add.inputs[0]):
        raise Decline("what is added to its product is not a constant with one number for each column")
    if product.w.dtype not in BYTES:
        raise Decline(f"its weight is {product.w.dtype}, not bytes")
    row = emit.constant("bias", bias.const_value.numpy().reshape(-1))
    inputs = [product.x, product.w, product.x_scale, product.w_scale, product.x_zero, product.w_zero, row]
    return emit.op("MatMulIntegerToFloat", inputs, domain=CONTRIB_DOMAIN)


def _is_row(bias: ir.TensorProtocol, columns: int, product: ir.Value | None) -> bool:
    """Returns whether a constant adds one number per column, not one per row, and adds no dims."""
    shape = list(bias.shape)
    known = product is not None and product.shape is not None and len(shape) <= len(product.shape)
    return known and bias.size == columns and shape[-1:] == [columns]
