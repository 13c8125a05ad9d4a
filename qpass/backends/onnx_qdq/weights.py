"""Quantized weights as ONNX values: integers in the file, dequantized for a product."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from torch import Tensor

from qpass.backends.onnx_qdq.emit import Emitter
from qpass.backends.onnx_qdq.pack_weights import WEIGHT_CODES
from qpass.backends.onnx_qdq.rules.patterns import MOVEMENTS
from qpass.errors import LoweringError
from qpass.nn import QuantizedConv, QuantizedLayer
from qpass.quantizers import Uniform, WeightCodebook
from qpass.quantizers.base import GREATEST_INT8

#: Offset of int8 codes that are stored as uint8.
UINT8_OFFSET = GREATEST_INT8 + 1


def is_dequantized(x: ir.Value) -> bool:
    """Returns whether a value is dequantized, perhaps moved since: only then do weight and input fuse."""
    node = x.producer()
    while node is not None and node.op_type in MOVEMENTS:
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return node is not None and node.op_type == "DequantizeLinear"


def matmul_with_weight(layer: QuantizedLayer, x: ir.Value, emit: Emitter, rank: int) -> ir.Value:
    product = emit.op("MatMul", [x, weight_matrix(layer, emit, fuses=is_dequantized(x))], shape=ir.Shape([None] * rank))
    if layer.bias is None:
        return product
    # If all dims are known, a bias of shape [N] lets onnxruntime rewrite the pair to a float Gemm
    # before it looks at Q/DQ, and fuse it with a following Gelu, which is slower than Add and Gelu.
    bias = to_numpy(layer.bias).reshape([1] * (rank - 1) + [-1])
    return emit.op("Add", [product, emit.constant("bias", bias)])


def weight_matrix(layer: QuantizedLayer, emit: Emitter, *, fuses: bool) -> ir.Value:
    """Returns the weight as a float value of shape (in, out), dequantized from integers in the file.

    With a float input, onnxruntime would turn a DequantizeLinear into MatMulNBits, which silently
    rounds the input to 8 bits. The same arithmetic is then written with Cast, Sub and Mul, and
    folded when the file is loaded.
    """
    quantizer = layer.quantizer
    if quantizer is None or (emit.options.explicit and not fuses):
        return emit.constant("weight", to_numpy(layer.quantized_weight()).reshape(layer.weight_shape[0], -1).T.copy())
    if isinstance(quantizer, WeightCodebook) and layer.codes is not None:
        return _weight_by_table(quantizer, to_numpy(layer.codes).reshape(len(layer.codes), -1).T, emit, fuses=fuses)
    if not isinstance(quantizer, Uniform) or layer.codes is None:
        raise LoweringError("the weight is not frozen to codes", where=emit.prefix, hint="run the Freeze pass first")
    codes = to_numpy(layer.codes).reshape(len(layer.codes), -1).T  # (in, out)
    zero_point = zero_points_as_codes(quantizer.zero_point, quantizer)
    centred = codes.astype(np.int16) - zero_point
    if not emit.options.weight_zero_points and np.abs(centred).max() <= GREATEST_INT8:
        codes, zero_point = centred.astype(np.int8), np.zeros_like(zero_point)
    if fuses:  # and becomes the second operand of an integer product
        codes, zero_point = (as_stored(array, quantizer, emit) for array in (codes, zero_point))
    stored = emit.constant(WEIGHT_CODES, np.ascontiguousarray(codes))
    scale = emit.constant("weight_scale", to_numpy(quantizer.scale))
    if not fuses:
        as_float = emit.op("Cast", [stored], {"to": ir.DataType.FLOAT})
        zero = emit.constant("weight_zero_point", zero_point.astype(np.float32))
        return emit.op("Mul", [emit.op("Sub", [as_float, zero]), scale])
    inputs = [stored, scale]
    if zero_point.any():
        inputs.append(emit.constant("weight_zero_point", zero_point))
    return emit.op("DequantizeLinear", inputs, {"axis": 1})


def integer_kernel(layer: QuantizedConv, emit: Emitter) -> ir.Value | None:
    """Returns a convolution's weight for an integer kernel, dequantized along its first dim.

    Such kernels have one zero point for all channels. It is subtracted from the codes when the file is
    loaded. None if a byte does not hold the difference.
    """
    quantizer, shape, options = layer.quantizer, list(layer.weight_shape), emit.options
    if layer.codes is None or not isinstance(quantizer, Uniform | WeightCodebook):
        return None
    codes = to_numpy(layer.codes).reshape(shape[0], -1)  # (out, in)
    if isinstance(quantizer, WeightCodebook):
        offset = not options.wide_int8
        levels = _levels_by_table(quantizer, codes.T, emit, as_uint8=offset)
        levels = emit.op("Transpose", [levels], {"perm": [1, 0]}, dtype=levels.dtype)
    else:
        zero_point = zero_points_as_codes(quantizer.zero_point, quantizer).reshape(-1, 1)
        centred = codes.astype(np.int16) - zero_point
        if np.abs(centred).max() > GREATEST_INT8 + (not zero_point.any()):
            return None
        offset, shifts = as_uint8(quantizer, emit), bool(zero_point.any()) and options.expands_at_load
        kept = codes if shifts else as_stored(centred.astype(np.int8), quantizer, emit)
        kept = kept.reshape(shape) if options.explicit else kept
        levels = emit.constant(WEIGHT_CODES, np.ascontiguousarray(kept))
        if shifts:
            floats = emit.op("Cast", [levels], {"to": ir.DataType.FLOAT})
            zero = emit.constant("weight_zero_point", zero_point.astype(np.float32))
            levels = emit.op("Cast", [emit.op("Sub", [floats, zero])], {"to": ir.DataType.INT8}, dtype=ir.DataType.INT8)
    if not options.explicit:
        levels = emit.op("Reshape", [levels, emit.constant("weight_shape", shape)], dtype=levels.dtype)
    inputs = [levels, emit.constant("weight_scale", np.broadcast_to(to_numpy(quantizer.scale), shape[:1]).copy())]
    if offset:
        inputs.append(emit.constant("weight_zero_points", np.full(shape[0], UINT8_OFFSET, np.uint8)))
    return emit.op("DequantizeLinear", inputs, {"axis": 0})


def _weight_by_table(quantizer: WeightCodebook, codes: np.ndarray, emit: Emitter, *, fuses: bool) -> ir.Value:
    """Codes -> levels -> DequantizeLinear; or Cast and Mul with a float input."""
    as_uint8 = fuses and not emit.options.wide_int8
    levels = _levels_by_table(quantizer, codes, emit, as_uint8=as_uint8)
    scale = emit.constant("weight_scale", to_numpy(quantizer.scale))
    if not fuses:
        return emit.op("Mul", [emit.op("Cast", [levels], {"to": ir.DataType.FLOAT}), scale])
    inputs = [levels, scale]
    if as_uint8:
        inputs.append(emit.constant("weight_zero_point", np.full(codes.shape[1], UINT8_OFFSET, np.uint8)))
    return emit.op("DequantizeLinear", inputs, {"axis": 1})


def _levels_by_table(quantizer: WeightCodebook, codes: np.ndarray, emit: Emitter, *, as_uint8: bool) -> ir.Value:
    """Codes -> Cast -> GatherElements(table) -> levels, which are folded when the file is loaded.

    Stored codes are signed: a negative index counts from the table's end, so the table is rotated.

    Args:
        quantizer: The codebook.
        codes: (in, out).
        emit: The emitter.
        as_uint8: Store levels as uint8, offset by 128.
    """
    table = to_numpy(quantizer.table).T  # (levels, tables)
    half, outputs = len(table) // 2, codes.shape[1]
    stored = table.astype(np.int16) + (UINT8_OFFSET if as_uint8 else 0)
    stored = stored.astype(np.uint8 if as_uint8 else np.int8)
    kind = ir.DataType.UINT8 if as_uint8 else ir.DataType.INT8
    if not emit.options.expands_at_load:
        owner = quantizer.tables(outputs).cpu().numpy()
        return emit.constant("weight_levels", np.take_along_axis(stored[:, owner], codes.astype(np.int64), axis=0))
    signed = np.ascontiguousarray(codes.astype(np.int16) - half, np.int8)
    index = emit.op("Cast", [emit.constant(WEIGHT_CODES, signed)], {"to": ir.DataType.INT32}, dtype=ir.DataType.INT32)
    tables = _table_of_each_column(np.roll(stored, -half, axis=0), outputs, quantizer.channels, kind, emit)
    return emit.op("GatherElements", [tables, index], {"axis": 0}, dtype=kind)


def _table_of_each_column(tables: np.ndarray, outputs: int, channels: int, kind: ir.DataType, emit: Emitter) -> ir.Value:
    """Tables (levels, tables) -> [Reshape -> Expand -> Reshape [-> Slice]] -> (levels, outputs)."""
    levels, count = tables.shape
    stored = emit.constant("weight_tables", np.ascontiguousarray(tables))
    if count == outputs:
        return stored
    each = channels or outputs
    apart = emit.op("Reshape", [stored, emit.constant("tables_apart", [levels, count, 1])], dtype=kind)
    repeated = emit.op("Expand", [apart, emit.constant("tables_repeated", [levels, count, each])], dtype=kind)
    found = emit.op("Reshape", [repeated, emit.constant("tables_of_columns", [levels, count * each])], dtype=kind)
    if count * each == outputs:
        return found
    start, end, axis = (emit.constant(f"table_{name}", [n]) for name, n in (("start", 0), ("end", outputs), ("axis", 1)))
    return emit.op("Slice", [found, start, end, axis], dtype=kind)


def as_uint8(quantizer: Any, emit: Emitter) -> bool:
    return quantizer.signed and quantizer.bits == 8 and not emit.options.wide_int8


def as_stored(codes: np.ndarray, quantizer: Uniform, emit: Emitter) -> np.ndarray:
    """Returns a quantizer's codes as stored in the file."""
    return np.asarray(codes.astype(np.int16) + UINT8_OFFSET, np.uint8) if as_uint8(quantizer, emit) else codes


def zero_points_as_codes(value: Tensor, quantizer: Uniform) -> np.ndarray:
    """Returns zero points as integers of the codes' dtype.

    Raises:
        LoweringError: If a zero point is not a code.
    """
    array = to_numpy(value)
    if (array < quantizer.code_min).any() or (array > quantizer.code_max).any() or (array != np.round(array)).any():
        raise LoweringError(
            f"zero point {array}", where="lowering", expected=f"integers in [{quantizer.code_min}, {quantizer.code_max}]"
        )
    return array.astype(np.int8 if quantizer.signed else np.uint8)


def to_numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
