"""Packs weights of fewer than 8 bits; standard operators unpack them when the file is loaded.

onnxruntime folds the unpacking into the weights, so the kernels read int8 as they would without
packing. While it folds, all intermediate values are in memory at once, so the unpacking should have
few operators of the weight's full size. Looking up several codes at once takes under four bytes per
code. Shifts and masks of bit planes take seventeen, far more than the float weight.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from qpass.backends.onnx_qdq.emit import Emitter

#: Name, after the layer's, of the constant that holds a weight's integer codes.
WEIGHT_CODES = "weight_codes"
#: The first opset with INT4 tensors, and the first with INT2 and UINT2.
INT4_OPSET, INT2_OPSET = 21, 25
#: Dtypes of indices into a table of codes. With a wider one, the table would be larger than the
#: weight.
_INDEX_TYPES: tuple[np.dtype[Any], ...] = (np.dtype(np.uint8), np.dtype(np.uint16))
_INT8, _UINT8, _INT32 = ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT32


def pack_weights(graph: ir.Graph, opset: int, *, tables: bool = True) -> int:
    """Packs every int8 weight whose codes need fewer bits; returns the number of packed weights.

    4-bit codes become an INT4 tensor and 2-bit codes INT2, if the opset has the type. Other codes
    of up to 5 bits are looked up in a table: an 8-bit index stands for 4 codes of 2 bits, a 16-bit
    index for 5 codes of 3 bits or 3 codes of 5 bits. Codes of 6 and 7 bits are split into four bits
    in INT4 and the rest in its own tensor. Without ``tables``, codes of up to 4 bits become INT4,
    and wider codes stay int8.
    """
    names = [name for name in graph.initializers if name.endswith(f".{WEIGHT_CODES}")]
    packer = _Packer(graph, opset, tables)
    count = sum(packer.pack(graph.initializers[name]) for name in names)
    graph.insert_before(graph[0], packer.nodes)
    return count


class _Packer:
    """Packs the weights of one graph, which share its tables."""

    def __init__(self, graph: ir.Graph, opset: int, tables: bool) -> None:
        self.graph, self.opset, self.looks_up = graph, opset, tables
        self.nodes: list[ir.Node] = []
        self._tables: dict[str, ir.Value] = {}

    def pack(self, value: ir.Value) -> bool:
        """Packs one weight if that makes it smaller; returns whether it did."""
        assert value.const_value is not None
        codes = value.const_value.numpy()
        bits = _bit_width(codes)
        if value.dtype != _INT8 or bits == 8 or not value.uses():
            return False
        emit = Emitter(self.graph, str(value.name))
        if not self.looks_up:
            if bits > 4 or self.opset < INT4_OPSET:
                return False
            unpacked = _cast(codes, ir.DataType.INT4, _INT8, emit)
        elif bits < 6:
            unpacked = self._narrow(codes, bits, emit, _INT8)
        else:
            unpacked = self._high_and_low(codes, bits - 4, emit)
        self.nodes += emit.nodes
        ir.convenience.replace_all_uses_with(value, unpacked)
        del self.graph.initializers[str(value.name)]
        return True

    def _narrow(self, codes: np.ndarray, bits: int, emit: Emitter, to: ir.DataType, *, signed: bool = True) -> ir.Value:
        """Packs codes of up to 5 bits, in a tensor type of that bit width if there is one.

        In a uint8, negative codes wrap around.
        """
        if bits == 4 and self.opset >= INT4_OPSET:
            return _cast(codes, ir.DataType.INT4 if signed else ir.DataType.UINT4, to, emit)
        if bits == 2 and self.opset >= INT2_OPSET:
            return _cast(codes, ir.DataType.INT2 if signed else ir.DataType.UINT2, to, emit)
        return self._look_up(codes, bits, emit, to, signed)

    def _high_and_low(self, codes: np.ndarray, low_bits: int, emit: Emitter) -> ir.Value:
        """Packs the high four bits, with the sign, and the low bits separately; joins them to bytes."""
        high = self._narrow(codes >> low_bits, 4, emit, _UINT8)
        low = self._narrow(codes & (2**low_bits - 1), low_bits, emit, _UINT8, signed=False)
        shifted = emit.op("BitShift", [high, emit.constant("low_bits", np.array(low_bits, np.uint8))], {"direction": "LEFT"})
        return emit.op("Cast", [emit.op("BitwiseOr", [shifted, low])], {"to": _INT8}, dtype=_INT8)

    def _look_up(self, codes: np.ndarray, bits: int, emit: Emitter, to: ir.DataType, signed: bool) -> ir.Value:
        """Indices, one per run of codes -> Gather from the table of all runs."""
        indices = pack(codes, bits, signed=signed)
        stored = emit.op("Cast", [emit.constant(f"runs_of_{bits}_bits", indices)], {"to": _INT32})
        found = emit.op("Gather", [self._table(bits, signed, to), stored], {"axis": 0})
        rows, columns = codes.shape
        filled = indices.shape[1] * codes_per_index(bits)[0]
        matrix = emit.op("Reshape", [found, emit.constant(f"shape_of_{bits}_bits", [rows, filled])], dtype=to)
        if filled == columns:
            return matrix
        start, end, axis = (emit.constant(name, [n]) for name, n in (("start", 0), ("end", columns), ("axis", 1)))
        return emit.op("Slice", [matrix, start, end, axis], dtype=to)

    def _table(self, bits: int, signed: bool, to: ir.DataType) -> ir.Value:
        """Returns all runs of n codes in index order, of shape (2^(n * bits), n).

        The table is computed when the file is loaded and stored nowhere.
        """
        key = f"runs.{'' if signed else 'u'}int{bits}_as_{to.name.lower()}"
        if key not in self._tables:
            emit = Emitter(self.graph, key)
            count, _ = codes_per_index(bits)
            ends = [
                emit.constant(name, np.array(n, np.int32)) for name, n in (("0", 0), ("end", 2 ** (bits * count)), ("1", 1))
            ]
            every = emit.op("Reshape", [emit.op("Range", ends), emit.constant("column", [-1, 1])])
            moved = emit.op("Div", [every, emit.constant("steps", (2 ** (bits * np.arange(count))).astype(np.int32))])
            code = emit.op("Mod", [moved, emit.constant("codes", np.array(2**bits, np.int32))])
            if signed:
                code = emit.op("Add", [code, emit.constant("least", np.array(-(2 ** (bits - 1)), np.int32))])
            self._tables[key] = emit.op("Cast", [code], {"to": to})
            self.nodes += emit.nodes
        return self._tables[key]


def pack(codes: np.ndarray, bits: int, *, signed: bool = True) -> np.ndarray:
    """Returns the indices of runs of codes along rows: (rows, columns) -> (rows, runs).

    The first code of a run is in the lowest bits. The last run of a row is padded with the smallest
    code.
    """
    count, dtype = codes_per_index(bits)
    row = codes.astype(np.int32) + (2 ** (bits - 1) if signed else 0)
    runs = np.pad(row, ((0, 0), (0, -codes.shape[1] % count))).reshape(len(codes), -1, count)
    indices: np.ndarray = (runs << (bits * np.arange(count))).sum(axis=2).astype(dtype)
    return indices


def codes_per_index(bits: int) -> tuple[int, np.dtype[Any]]:
    """Returns the codes per index and its dtype: the narrowest one that wastes the fewest bits."""
    dtype = max(_INDEX_TYPES, key=lambda kind: 8 * kind.itemsize // bits * bits / kind.itemsize)
    return 8 * dtype.itemsize // bits, dtype


def _bit_width(codes: np.ndarray) -> int:
    """Returns the bit width of the codes, including the sign bit; at least 2."""
    return max(2, *(int(end if end >= 0 else ~end).bit_length() + 1 for end in (codes.min(), codes.max())))


def _cast(codes: np.ndarray, stored_as: ir.DataType, to: ir.DataType, emit: Emitter) -> ir.Value:
    stored = emit.constant(stored_as.name.lower(), codes.astype(stored_as.numpy()), stored_as)
    return emit.op("Cast", [stored], {"to": to}, dtype=to)
