"""Lowerings of qpass modules to standard ONNX nodes, in a table keyed by class."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from qpass.backends.onnx_qdq.convolutions import lower_convolution
from qpass.backends.onnx_qdq.emit import Emitter
from qpass.backends.onnx_qdq.weights import (
    as_stored,
    as_uint8,
    matmul_with_weight,
    to_numpy,
    zero_points_as_codes,
)
from qpass.config.options import CodeZero
from qpass.errors import LoweringError
from qpass.nn import QuantizedConv, QuantizedLinear, ResidualFactor
from qpass.quantizers import ByteTable, DynamicFocus, Log2, LogSqrt2, LookUp, ShiftLog2, Tan, Uniform
from qpass.quantizers.base import GREATEST_BYTE, GREATEST_INT8

#: Lower bounds of operators' outputs.
_LEAST_VALUES = {"Softmax": 0.0, "Gelu": -0.1701}

#: (module, node to replace, emitter) -> the value that replaces the node's output.
Lowering = Callable[[Any, ir.Node, Emitter], ir.Value]

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
    scale = emit.constant("scale", to_numpy(quantizer.scale))
    zero_point = emit.constant("zero_point", as_stored(zero_points_as_codes(quantizer.zero_point, quantizer), quantizer, emit))
    codes = _quantize(node.inputs[0], scale, zero_point, quantizer, emit)
    return emit.op("DequantizeLinear", [codes, scale, zero_point])


def _quantize(x: ir.Value | None, scale: ir.Value, zero_point: ir.Value, quantizer: Any, emit: Emitter) -> ir.Value:
    dtype = ir.DataType.INT8 if quantizer.signed and not as_uint8(quantizer, emit) else ir.DataType.UINT8
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
        logarithm = emit.op("Sub", [logarithm, emit.constant("log_scale", to_numpy(quantizer.scale.log()))])
    codes = _quantize(logarithm, step, top, quantizer, emit)
    value = emit.op("Exp", [emit.op("DequantizeLinear", [codes, step, top])])
    if scaled:
        value = emit.op("Mul", [value, emit.constant("scale", to_numpy(quantizer.scale))])
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
    scale, zero_point = emit.constant("scale", to_numpy(quantizer.scale)), emit.constant("zero_point", np.array(0, np.uint8))
    offset = None if quantizer.code_zero == CodeZero.SNAPPED else emit.constant("b1", to_numpy(quantizer.b1))
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
    logarithm = emit.op("Log", [emit.op("Add", [node.inputs[0], emit.constant("eta", to_numpy(quantizer.eta))])])
    distance = emit.op("Sub", [logarithm, emit.constant("log_low", to_numpy(quantizer.low * math.log(2)))])
    return _codes_of_equal_steps(distance, quantizer.step * math.log(2), quantizer, node, emit)


@register_lowering(Tan)
def lower_tan(quantizer: Tan, node: ir.Node, emit: Emitter) -> ir.Value:
    """x -> Mul -> Add -> Clip -> Tan -> Sub -> QuantizeLinear -> Clip -> value table."""
    low, high = emit.constant("low", to_numpy(quantizer.low)), emit.constant("high", to_numpy(quantizer.high))
    angle = emit.op("Mul", [node.inputs[0], emit.constant("slope", to_numpy(quantizer.slope))])
    tangent = emit.op("Tan", [emit.op("Clip", [emit.op("Add", [angle, low]), low, high])])
    distance = emit.op("Sub", [tangent, emit.constant("tan_low", to_numpy(quantizer.low.tan()))])
    return _codes_of_equal_steps(distance, quantizer.step, quantizer, node, emit)


def _codes_of_equal_steps(distance: ir.Value, step: Tensor, quantizer: Any, node: ir.Node, emit: Emitter) -> ir.Value:
    zero = emit.constant("zero_point", np.array(0, np.uint8))
    codes = _quantize(distance, emit.constant("step", to_numpy(step)), zero, quantizer, emit)
    return _look_up(codes, emit.constant("values", to_numpy(quantizer.levels())), node, emit)


@register_lowering(LookUp)
def lower_look_up(quantizer: LookUp, node: ir.Node, emit: Emitter) -> ir.Value:
    """x -> Log -> QuantizeLinear -> value table, or byte table -> DequantizeLinear -> Add."""
    step, top = (
        emit.constant("log_step", to_numpy(quantizer.log_step)),
        emit.constant("zero_point", np.array(GREATEST_BYTE, np.uint8)),
    )
    cells = _quantize(emit.op("Log", [node.inputs[0]]), step, top, quantizer, emit)
    value = _look_up(cells, emit.constant("table", to_numpy(quantizer.table)), node, emit)
    if not quantizer.integers:
        return value
    zero = emit.constant("table_zero_point", np.array(0, np.uint8))
    value = emit.op("DequantizeLinear", [value, emit.constant("unit", to_numpy(quantizer.unit)), zero])
    return emit.op("Add", [value, emit.constant("offset", to_numpy(quantizer.offset))])


@register_lowering(ByteTable)
def lower_byte_table(quantizer: ByteTable, node: ir.Node, emit: Emitter) -> ir.Value:
    """x -> QuantizeLinear -> byte table -> DequantizeLinear."""
    scale = emit.constant("scale", to_numpy(quantizer.scale))
    zero_point = emit.constant("zero_point", to_numpy(quantizer.zero_point).astype(np.uint8))
    cells = _quantize(node.inputs[0], scale, zero_point, quantizer, emit)
    signed = quantizer.levels_signed and emit.options.wide_int8
    offset = quantizer.level_offset if quantizer.levels_signed and not signed else 0
    table = to_numpy(quantizer.table).astype(np.int16) + offset
    kind = np.int8 if signed else np.uint8
    levels = _look_up(cells, emit.constant("table", table.astype(kind)), node, emit)
    zero = to_numpy(quantizer.table_zero_point + offset).astype(kind)
    return emit.op("DequantizeLinear", [levels, scale, emit.constant("table_zero_point", zero)])


def stored_table(quantizer: nn.Module) -> np.ndarray | None:
    """Returns the table of a quantizer whose codes are looked up in one; None for any other."""
    if isinstance(quantizer, ByteTable | LookUp):
        return to_numpy(quantizer.table)
    return to_numpy(quantizer.levels()) if isinstance(quantizer, ShiftLog2 | Tan) else None


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
    if rank != 2 or emit.options.explicit:
        return matmul_with_weight(layer, x, emit, rank)
    # With two dims, onnxruntime would make this a float Gemm before it looks at Q/DQ, whatever the
    # bias's shape.
    axis = emit.constant("token_axis", [1])
    return emit.op("Squeeze", [matmul_with_weight(layer, emit.op("Unsqueeze", [x, axis]), emit, 3), axis])


register_lowering(QuantizedConv)(lower_convolution)
