"""Lowerings of qpass modules to standard ONNX nodes, in a table keyed by class."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from qpass.backends.onnx_qdq.emit import Emitter
from qpass.backends.onnx_qdq.pack_weights import WEIGHT_CODES
from qpass.backends.onnx_qdq.rules.patterns import MOVEMENTS
from qpass.config.options import CodeZero
from qpass.errors import LoweringError
from qpass.nn import QuantizedConv, QuantizedLayer, QuantizedLinear, ResidualFactor
from qpass.quantizers import ByteTable, DynamicFocus, Log2, LogSqrt2, LookUp, ShiftLog2, Tan, Uniform, WeightCodebook
from qpass.quantizers.base import GREATEST_BYTE, GREATEST_INT8

#: Lower bounds of operators' outputs.
_LEAST_VALUES = {"Softmax": 0.0, "Gelu": -0.1701}

#: (module, node to replace, emitter) -> the value that replaces the node's output.
Lowering = Callable[[Any, ir.Node, Emitter], ir.Value]

#: Offset of int8 codes that are stored as uint8.
UINT8_OFFSET = GREATEST_INT8 + 1

#: Suffix of the name of the tensor that holds a quantizer's codes; verification looks for it.
CODES = ".codes"

_LOWERINGS: dict[type[nn.Module], Lowering] = {}


def register_lowering(kind: type[nn.Module]) -> Callable[[Lowering], Lowering]:
    """Registers the lowering of a class; a second one for the same class raises LoweringError."""

    def register(lowering: Lowering) -> Lowering:
        if kind in _LOWERINGS:
            raise LoweringError(f"{kind.__name__} has a lowering already", where="register_lowering")
        _LOWERINGS[kind] = lowering
        return lowering

    return register


def lowering_of(module: nn.Module, where: str) -> Lowering:
    """Returns the lowering of a module's class.

    Raises:
        LoweringError: If there is none; the message lists the known classes.
    """
    if type(module) not in _LOWERINGS:
        known = ", ".join(sorted(kind.__name__ for kind in _LOWERINGS))
        raise LoweringError(
            f"no ONNX lowering for {type(module).__name__}",
            where=where,
            expected=f"one of {known}",
            hint="write one with register_lowering(...)",
        )
    return _LOWERINGS[type(module)]


@register_lowering(Uniform)
def lower_uniform(quantizer: Uniform, node: ir.Node, emit: Emitter) -> ir.Value:
    """x -> QuantizeLinear -> [Clip] -> DequantizeLinear; clips codes below 8 bits if needed."""
    scale = emit.constant("scale", _numpy(quantizer.scale))
    zero_point = emit.constant("zero_point", _stored(_codes(quantizer.zero_point, quantizer), quantizer, emit))
    codes = _quantize(node.inputs[0], scale, zero_point, quantizer, emit)
    return emit.op("DequantizeLinear", [codes, scale, zero_point])


def _quantize(x: ir.Value | None, scale: ir.Value, zero_point: ir.Value, quantizer: Any, emit: Emitter) -> ir.Value:
    dtype = ir.DataType.INT8 if quantizer.signed and not _as_uint8(quantizer, emit) else ir.DataType.UINT8
    name = emit.prefix + CODES
    clips = _needs_clip(x, quantizer)
    if clips and not emit.options.clips_codes:
        x = _clip_before(x, scale, zero_point, quantizer, emit)
    if not (clips and emit.options.clips_codes):
        return emit.op("QuantizeLinear", [x, scale, zero_point], name=name, dtype=dtype)
    codes = emit.op("QuantizeLinear", [x, scale, zero_point], dtype=dtype)
    kind = np.int8 if quantizer.signed else np.uint8
    bounds = [emit.constant(n, np.array(v, kind)) for n, v in (("least", quantizer.code_min), ("greatest", quantizer.code_max))]
    return emit.op("Clip", [codes, *bounds], name=name, dtype=dtype)


def _clip_before(x: ir.Value | None, scale: ir.Value, zero_point: ir.Value, quantizer: Any, emit: Emitter) -> ir.Value:
    """Clips floats to the values of the smallest and largest codes."""
    numbers = [value.const_value.numpy() for value in (scale, zero_point) if value.const_value is not None]
    ends = [(code - int(numbers[1])) * float(numbers[0]) for code in (quantizer.code_min, quantizer.code_max)]
    bounds = [emit.constant(name, np.array(end, np.float32)) for name, end in zip(("lower", "upper"), ends, strict=True)]
    return emit.op("Clip", [x, *bounds])


def _needs_clip(x: ir.Value | None, quantizer: Any) -> bool:
    """Returns whether QuantizeLinear, which saturates at 8 bits, may exceed the quantizer's codes."""
    least, greatest = (-GREATEST_INT8 - 1, GREATEST_INT8) if quantizer.signed else (0, GREATEST_BYTE)
    producer = None if x is None else x.producer()
    bound = _LEAST_VALUES.get(producer.op_type) if producer is not None else None
    if bound is not None and isinstance(quantizer, Uniform):
        least = int((torch.tensor(bound) / quantizer.scale).round() + quantizer.zero_point)
    return bool(quantizer.code_min > least or quantizer.code_max < greatest)


@register_lowering(Log2)
@register_lowering(LogSqrt2)
def lower_log(quantizer: Log2, node: ir.Node, emit: Emitter) -> ir.Value:
    """x -> Log [- ln s] -> QuantizeLinear -> [Clip] -> DequantizeLinear -> Exp [* s] [-> ThresholdedRelu]."""
    step = emit.constant("log_step", np.array(quantizer.log_step, np.float32))
    top = emit.constant("zero_point", np.array(quantizer.code_max, np.uint8))
    scaled = quantizer.scale.item() != 1
    logarithm = emit.op("Log", [node.inputs[0]])
    if scaled:
        logarithm = emit.op("Sub", [logarithm, emit.constant("log_scale", _numpy(quantizer.scale.log()))])
    codes = _quantize(logarithm, step, top, quantizer, emit)
    value = emit.op("Exp", [emit.op("DequantizeLinear", [codes, step, top])])
    if scaled:
        value = emit.op("Mul", [value, emit.constant("scale", _numpy(quantizer.scale))])
    if quantizer.zero_code:
        threshold = float(quantizer.least_value * 2 ** (-0.5 / quantizer.steps_per_octave))
        value = emit.op("ThresholdedRelu", [value], {"alpha": threshold})
    return value


@register_lowering(DynamicFocus)
def lower_dynamic_focus(quantizer: DynamicFocus, node: ir.Node, emit: Emitter) -> ir.Value:
    """x [- b1] -> QuantizeLinear -> Clip -> DequantizeLinear [+ b1] [-> ThresholdedRelu].

    ``code_zero`` decides on the optional operators.
    """
    x = node.inputs[0]
    scale, zero_point = emit.constant("scale", _numpy(quantizer.scale)), emit.constant("zero_point", np.array(0, np.uint8))
    offset = None if quantizer.code_zero == CodeZero.SNAPPED else emit.constant("b1", _numpy(quantizer.b1))
    if offset is not None:
        x = emit.op("Sub", [x, offset])
    value = emit.op("DequantizeLinear", [_quantize(x, scale, zero_point, quantizer, emit), scale, zero_point])
    if offset is not None:
        value = emit.op("Add", [value, offset])
    if quantizer.code_zero == CodeZero.ZERO:
        value = emit.op("ThresholdedRelu", [value], {"alpha": (quantizer.b1 + quantizer.scale / 2).item()})
    return value


@register_lowering(ShiftLog2)
def lower_shift_log2(quantizer: ShiftLog2, node: ir.Node, emit: Emitter) -> ir.Value:
    """x -> Add(η) -> Log -> Sub(lo) -> QuantizeLinear -> Clip -> value table."""
    logarithm = emit.op("Log", [emit.op("Add", [node.inputs[0], emit.constant("eta", _numpy(quantizer.eta))])])
    distance = emit.op("Sub", [logarithm, emit.constant("log_low", _numpy(quantizer.low * math.log(2)))])
    return _codes_of_equal_steps(distance, quantizer.step * math.log(2), quantizer, node, emit)


@register_lowering(Tan)
def lower_tan(quantizer: Tan, node: ir.Node, emit: Emitter) -> ir.Value:
    """x -> Mul -> Add -> Clip -> Tan -> Sub -> QuantizeLinear -> Clip -> value table."""
    low, high = emit.constant("low", _numpy(quantizer.low)), emit.constant("high", _numpy(quantizer.high))
    angle = emit.op("Mul", [node.inputs[0], emit.constant("slope", _numpy(quantizer.slope))])
    tangent = emit.op("Tan", [emit.op("Clip", [emit.op("Add", [angle, low]), low, high])])
    distance = emit.op("Sub", [tangent, emit.constant("tan_low", _numpy(quantizer.low.tan()))])
    return _codes_of_equal_steps(distance, quantizer.step, quantizer, node, emit)


def _codes_of_equal_steps(distance: ir.Value, step: Tensor, quantizer: Any, node: ir.Node, emit: Emitter) -> ir.Value:
    zero = emit.constant("zero_point", np.array(0, np.uint8))
    codes = _quantize(distance, emit.constant("step", _numpy(step)), zero, quantizer, emit)
    return _look_up(codes, emit.constant("values", _numpy(quantizer.levels())), node, emit)


@register_lowering(LookUp)
def lower_look_up(quantizer: LookUp, node: ir.Node, emit: Emitter) -> ir.Value:
    """x -> Log -> QuantizeLinear -> value table, or byte table -> DequantizeLinear -> Add."""
    step, top = (
        emit.constant("log_step", _numpy(quantizer.log_step)),
        emit.constant("zero_point", np.array(GREATEST_BYTE, np.uint8)),
    )
    cells = _quantize(emit.op("Log", [node.inputs[0]]), step, top, quantizer, emit)
    value = _look_up(cells, emit.constant("table", _numpy(quantizer.table)), node, emit)
    if not quantizer.integers:
        return value
    zero = emit.constant("table_zero_point", np.array(0, np.uint8))
    value = emit.op("DequantizeLinear", [value, emit.constant("unit", _numpy(quantizer.unit)), zero])
    return emit.op("Add", [value, emit.constant("offset", _numpy(quantizer.offset))])


@register_lowering(ByteTable)
def lower_byte_table(quantizer: ByteTable, node: ir.Node, emit: Emitter) -> ir.Value:
    """x -> QuantizeLinear -> byte table -> DequantizeLinear."""
    scale = emit.constant("scale", _numpy(quantizer.scale))
    zero_point = emit.constant("zero_point", _numpy(quantizer.zero_point).astype(np.uint8))
    cells = _quantize(node.inputs[0], scale, zero_point, quantizer, emit)
    signed = quantizer.levels_signed and emit.options.wide_int8
    offset = quantizer.level_offset if quantizer.levels_signed and not signed else 0
    table = _numpy(quantizer.table).astype(np.int16) + offset
    kind = np.int8 if signed else np.uint8
    levels = _look_up(cells, emit.constant("table", table.astype(kind)), node, emit)
    zero = _numpy(quantizer.table_zero_point + offset).astype(kind)
    return emit.op("DequantizeLinear", [levels, scale, emit.constant("table_zero_point", zero)])


def _look_up(codes: ir.Value, table: ir.Value, node: ir.Node, emit: Emitter) -> ir.Value:
    """Returns table[codes], on flat tensors: GatherElements takes a tenth of the time of Gather."""
    index = emit.op("Cast", [codes], {"to": ir.DataType.INT32}, dtype=ir.DataType.INT32)
    flat = emit.op("Reshape", [index, emit.constant("flat", [-1])])
    found = emit.op("GatherElements", [table, flat], {"axis": 0}, dtype=table.dtype)
    shape = list(node.outputs[0].shape or ())
    known = [size if isinstance(size, int) else -1 for size in shape]
    if shape and known.count(-1) <= 1:
        return emit.op("Reshape", [found, emit.constant("shape", known)], dtype=table.dtype)
    return emit.op("Reshape", [found, emit.op("Shape", [codes], dtype=ir.DataType.INT64)], dtype=table.dtype)


@register_lowering(QuantizedLinear)
@register_lowering(ResidualFactor)
def lower_linear(layer: QuantizedLinear, node: ir.Node, emit: Emitter) -> ir.Value:
    """x -> MatMul(x, DequantizeLinear(Wᵀ)) -> Add(bias of shape [1, ..., N]).

    This form fuses to an integer matmul.
    """
    x = node.inputs[0]
    assert x is not None
    rank = len(node.outputs[0].shape or ())
    if rank != 2:
        return _matmul_with_weight(layer, x, emit, rank)
    # With two dims, onnxruntime would make this a float Gemm before it looks at Q/DQ, whatever the
    # bias's shape.
    axis = emit.constant("token_axis", [1])
    return emit.op("Squeeze", [_matmul_with_weight(layer, emit.op("Unsqueeze", [x, axis]), emit, 3), axis])


@register_lowering(QuantizedConv)
def lower_patches(layer: QuantizedConv, node: ir.Node, emit: Emitter) -> ir.Value:
    """Convolution over windows that tile the image -> Reshape, Transpose, MatMul, Transpose, Reshape.

    The matmul is that of a Linear. With a float input or several groups -> Conv with the
    dequantized weight, which is folded when the file is loaded.
    """
    x, output = node.inputs[0], node.outputs[0]
    assert x is not None
    assert x.shape is not None
    assert output.shape is not None
    sides, channels = layer.patch, x.shape[1]
    if not isinstance(channels, int):
        raise LoweringError(f"an image of shape {x.shape}", where=emit.prefix, expected="a fixed number of channels")
    if layer.groups > 1 or not _is_dequantized(x):
        matrix = emit.op("Transpose", [_weight(layer, emit, fuses=False)], {"perm": [1, 0]})
        weight = emit.op("Reshape", [matrix, emit.constant("weight_shape", list(layer.weight_shape))])
        bias = [] if layer.bias is None else [emit.constant("bias", _numpy(layer.bias))]
        return emit.op("Conv", [x, weight, *bias], {"strides": list(sides), "group": layer.groups})
    grid = _grid(x, sides, emit)
    if set(sides) == {1}:  # onnxruntime transposes two dims far faster than more
        tokens = x
        if len(sides) > 1:
            tokens = emit.op("Reshape", [x, emit.constant("token_shape", [0, channels, -1])])
        tokens = emit.op("Transpose", [tokens], {"perm": [0, 2, 1]})
    else:
        cut = [size for count, side in zip(grid, sides, strict=True) for size in (count, side)]
        windows = emit.op("Reshape", [x, _shape("cut_shape", [0, channels, *cut], emit)])
        order = [0, *range(2, 2 + len(cut), 2), 1, *range(3, 3 + len(cut), 2)]
        patches = emit.op("Transpose", [windows], {"perm": order})
        tokens = emit.op("Reshape", [patches, emit.constant("token_shape", [0, -1, channels * math.prod(sides)])])
    moved = emit.op("Transpose", [_matmul_with_weight(layer, tokens, emit, 3)], {"perm": [0, 2, 1]})
    if len(sides) == 1:
        return moved
    return emit.op("Reshape", [moved, _shape("image_shape", [0, int(output.shape[1]), *grid], emit)])


def _grid(x: ir.Value, sides: tuple[int, ...], emit: Emitter) -> list[int | ir.Value]:
    """Returns the number of windows in each spatial dim; a value of shape (1,) for a dynamic size."""
    assert x.shape is not None
    grid: list[int | ir.Value] = []
    for dim, side in enumerate(sides, 2):
        size = x.shape[dim]
        if isinstance(size, int):
            grid.append(size // side)
        else:
            length = emit.op("Shape", [x], {"start": dim, "end": dim + 1})
            grid.append(emit.op("Div", [length, emit.constant(f"side_{dim}", [side])]))
    return grid


def _shape(name: str, sizes: list[int | ir.Value], emit: Emitter) -> ir.Value:
    """Returns the shape input of a Reshape."""
    numbers = [size for size in sizes if isinstance(size, int)]
    if len(numbers) == len(sizes):
        return emit.constant(name, numbers)
    parts = [emit.constant(f"{name}_{i}", [size]) if isinstance(size, int) else size for i, size in enumerate(sizes)]
    return emit.op("Concat", parts, {"axis": 0})


def _matmul_with_weight(layer: QuantizedLayer, x: ir.Value, emit: Emitter, rank: int) -> ir.Value:
    product = emit.op("MatMul", [x, _weight(layer, emit, fuses=_is_dequantized(x))], shape=ir.Shape([None] * rank))
    if layer.bias is None:
        return product
    # If all dims are known, a bias of shape [N] lets onnxruntime rewrite the pair to a float Gemm
    # before it looks at Q/DQ, and fuse it with a following Gelu, which is slower than Add and Gelu.
    bias = _numpy(layer.bias).reshape([1] * (rank - 1) + [-1])
    return emit.op("Add", [product, emit.constant("bias", bias)])


def _is_dequantized(x: ir.Value) -> bool:
    """Returns whether a value is dequantized, perhaps moved since: only then do weight and input fuse."""
    node = x.producer()
    while node is not None and node.op_type in MOVEMENTS:
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return node is not None and node.op_type == "DequantizeLinear"


def _weight(layer: QuantizedLayer, emit: Emitter, *, fuses: bool) -> ir.Value:
    """Returns the weight as a float value of shape (in, out), dequantized from integers in the file.

    With a float input, onnxruntime would turn a DequantizeLinear into MatMulNBits, which silently
    rounds the input to 8 bits. The same arithmetic is then written with Cast, Sub and Mul, and
    folded when the file is loaded.
    """
    quantizer = layer.quantizer
    if quantizer is None:
        return emit.constant("weight", _numpy(layer.effective_weight()).reshape(len(layer.effective_weight()), -1).T.copy())
    if isinstance(quantizer, WeightCodebook) and layer.codes is not None:
        return _weight_by_table(quantizer, _numpy(layer.codes).reshape(len(layer.codes), -1).T, emit, fuses=fuses)
    if not isinstance(quantizer, Uniform) or layer.codes is None:
        raise LoweringError("the weight is not frozen to codes", where=emit.prefix, hint="run the Freeze pass first")
    codes = _numpy(layer.codes).reshape(len(layer.codes), -1).T  # (in, out)
    zero_point = _codes(quantizer.zero_point, quantizer)
    centred = codes.astype(np.int16) - zero_point
    if not emit.options.weight_zero_points and np.abs(centred).max() <= GREATEST_INT8:
        codes, zero_point = centred.astype(np.int8), np.zeros_like(zero_point)
    if fuses:  # and becomes the second operand of an integer product
        codes, zero_point = (_stored(array, quantizer, emit) for array in (codes, zero_point))
    stored = emit.constant(WEIGHT_CODES, np.ascontiguousarray(codes))
    scale = emit.constant("weight_scale", _numpy(quantizer.scale))
    if not fuses:
        as_float = emit.op("Cast", [stored], {"to": ir.DataType.FLOAT})
        zero = emit.constant("weight_zero_point", zero_point.astype(np.float32))
        return emit.op("Mul", [emit.op("Sub", [as_float, zero]), scale])
    inputs = [stored, scale]
    if zero_point.any():
        inputs.append(emit.constant("weight_zero_point", zero_point))
    return emit.op("DequantizeLinear", inputs, {"axis": 1})


def _weight_by_table(quantizer: WeightCodebook, codes: np.ndarray, emit: Emitter, *, fuses: bool) -> ir.Value:
    """Codes -> Cast -> GatherElements(table) -> DequantizeLinear; or Cast and Mul with a float input.

    Everything before the DequantizeLinear is folded when the file is loaded. Stored codes are signed: a
    negative index counts from the table's end, so the table is rotated.

    Args:
        quantizer: The codebook.
        codes: (in, out).
        emit: The emitter.
        fuses: See ``_weight``.
    """
    table = _numpy(quantizer.table).T  # (levels, tables)
    half, outputs = len(table) // 2, codes.shape[1]
    as_uint8 = fuses and not emit.options.wide_int8
    stored = table.astype(np.int16) + (UINT8_OFFSET if as_uint8 else 0)
    stored = stored.astype(np.uint8 if as_uint8 else np.int8)
    kind = ir.DataType.UINT8 if as_uint8 else ir.DataType.INT8
    if not emit.options.expands_at_load:
        owner = quantizer.tables(outputs).cpu().numpy()
        levels = emit.constant("weight_levels", np.take_along_axis(stored[:, owner], codes.astype(np.int64), axis=0))
    else:
        signed = np.ascontiguousarray(codes.astype(np.int16) - half, np.int8)
        index = emit.op("Cast", [emit.constant(WEIGHT_CODES, signed)], {"to": ir.DataType.INT32}, dtype=ir.DataType.INT32)
        tables = _table_of_each_column(np.roll(stored, -half, axis=0), outputs, quantizer.channels, kind, emit)
        levels = emit.op("GatherElements", [tables, index], {"axis": 0}, dtype=kind)
    scale = emit.constant("weight_scale", _numpy(quantizer.scale))
    if not fuses:
        return emit.op("Mul", [emit.op("Cast", [levels], {"to": ir.DataType.FLOAT}), scale])
    inputs = [levels, scale]
    if as_uint8:
        inputs.append(emit.constant("weight_zero_point", np.full(outputs, UINT8_OFFSET, np.uint8)))
    return emit.op("DequantizeLinear", inputs, {"axis": 1})


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


def _as_uint8(quantizer: Any, emit: Emitter) -> bool:
    return quantizer.signed and quantizer.bits == 8 and not emit.options.wide_int8


def _stored(codes: np.ndarray, quantizer: Uniform, emit: Emitter) -> np.ndarray:
    """Returns a quantizer's codes as stored in the file."""
    return np.asarray(codes.astype(np.int16) + UINT8_OFFSET, np.uint8) if _as_uint8(quantizer, emit) else codes


def _codes(value: Tensor, quantizer: Uniform) -> np.ndarray:
    """Returns zero points as integers of the codes' dtype.

    Raises:
        LoweringError: If a zero point is not a code.
    """
    array = _numpy(value)
    if (array < quantizer.code_min).any() or (array > quantizer.code_max).any() or (array != np.round(array)).any():
        raise LoweringError(
            f"zero point {array}", where="lowering", expected=f"integers in [{quantizer.code_min}, {quantizer.code_max}]"
        )
    return array.astype(np.int8 if quantizer.signed else np.uint8)


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
