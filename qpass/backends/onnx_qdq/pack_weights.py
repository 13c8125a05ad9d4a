"""Weights of fewer than 8 bits, packed in the file and unpacked by standard operators when it is loaded.

onnxruntime folds the unpacking into the weights, so that the kernels read int8 as they would without it.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

from qpass.backends.onnx_qdq.emit import Emitter

#: The constant, after its layer's name, that holds a weight's integer codes.
WEIGHT_CODES = "weight_codes"
#: The least opset with INT4 tensors.
INT4_OPSET = 21
#: Widths of the fields that a code is cut into, widest first: those that divide a byte.
_FIELDS = (4, 2, 1)


def pack_weights(graph: ir.Graph, opset: int, *, fields: bool = True) -> int:
    """Packs every int8 weight whose codes need fewer bits; returns how many.

    4 bits become an INT4 tensor, where the opset has it. Any other width k is cut into fields of 4, 2 and 1 bits, as many of a
    field to a byte as it holds: 3 bits are four 2-bit fields to a byte, and eight 1-bit ones. Without ``fields`` they become
    INT4 up to 4 bits, and stay int8 above.
    """
    names = [name for name in graph.initializers if name.endswith(f".{WEIGHT_CODES}")]
    return sum(_pack(graph, graph.initializers[name], opset, fields) for name in names)


def _pack(graph: ir.Graph, value: ir.Value, opset: int, fields: bool) -> bool:
    assert value.const_value is not None
    codes = value.const_value.numpy()
    least = int(codes.min())
    bits = max(1, (int(codes.max()) - least).bit_length())
    if value.dtype != ir.DataType.INT8 or bits >= 8 or not value.uses():
        return False
    emit = Emitter(graph, str(value.name))
    is_int4 = bits <= 4 and least >= -8 and codes.max() <= 7 and opset >= INT4_OPSET
    if is_int4 and (bits == 4 or not fields):
        packed = emit.constant("int4", codes.astype(ml_dtypes.int4), ir.DataType.INT4)
        unpacked = emit.op("Cast", [packed], {"to": ir.DataType.INT8}, dtype=ir.DataType.INT8)
    elif not fields:
        return False
    else:
        unpacked = _fields(codes, least, bits, emit)
    ir.convenience.replace_all_uses_with(value, unpacked)
    del graph.initializers[str(value.name)]
    graph.insert_before(graph[0], emit.nodes)
    return True


def _fields(codes: np.ndarray, least: int, bits: int, emit: Emitter) -> ir.Value:
    """Registers the fields of codes - least and returns the value that puts them together again."""
    rest, shift = (codes.astype(np.int16) - least).astype(np.uint8).reshape(-1), 0
    rest = np.pad(rest, (0, -codes.size % 8))
    total: ir.Value | None = None
    for width in _FIELDS:
        if not bits & width:
            continue
        field = (rest >> shift) & (2**width - 1)
        part = _unpack(pack(field, width), width, emit)
        if shift:
            part = emit.op("BitShift", [part, emit.constant(f"shift_{shift}", np.array(shift, np.uint8))], {"direction": "LEFT"})
        total = part if total is None else emit.op("BitwiseOr", [total, part])
        shift += width
    # int32 in between: onnxruntime subtracts no bytes.
    wide = emit.op("Cast", [total], {"to": ir.DataType.INT32})
    centred = emit.op("Add", [wide, emit.constant("least", np.array(least, np.int32))])
    narrow = emit.op("Cast", [centred], {"to": ir.DataType.INT8})
    if codes.size % 8:
        narrow = emit.op("Slice", [narrow, *(emit.constant(f"slice_{n}", [n]) for n in (0, codes.size))])
    return emit.op("Reshape", [narrow, emit.constant("shape", list(codes.shape))], dtype=ir.DataType.INT8)


def pack(field: np.ndarray, width: int) -> np.ndarray:
    """Returns fields of ``width`` bits, 8 / width to a byte: (n,) to (n width / 8,).

    The first part of the row lies in the lowest bits of all bytes, the next part above it: so one shift unpacks a whole
    part, where neighbours in a byte would take a shift each.
    """
    shifts = np.arange(0, 8, width, dtype=np.uint8)[:, None]
    rows: np.ndarray = np.bitwise_or.reduce(field.reshape(8 // width, -1).astype(np.uint8) << shifts, axis=0)
    return rows


def _unpack(packed: np.ndarray, width: int, emit: Emitter) -> ir.Value:
    """Returns the fields again, in one row."""
    stored = emit.constant(f"bits_{width}", packed)
    shifts = emit.constant(f"shifts_{width}", np.arange(0, 8, width, dtype=np.uint8)[:, None])
    mask = emit.constant(f"mask_{width}", np.array(2**width - 1, np.uint8))
    moved = emit.op("BitShift", [stored, shifts], {"direction": "RIGHT"})
    return emit.op("Reshape", [emit.op("BitwiseAnd", [moved, mask]), emit.constant("flat", [-1])])
