"""Lowering of convolutions with a quantized weight."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import torch

from qpass.backends.onnx_qdq.emit import Emitter
from qpass.backends.onnx_qdq.rules.patterns import MOVEMENTS
from qpass.backends.onnx_qdq.weights import integer_kernel, is_dequantized, matmul_with_weight, to_numpy, weight_matrix
from qpass.errors import LoweringError
from qpass.graph.signature.input_dims import split_multiple
from qpass.nn import QuantizedConv

#: Operators that an integer kernel of a convolution includes.
_FUSED = ("Relu",)


def lower_convolution(layer: QuantizedConv, node: ir.Node, emit: Emitter) -> ir.Value:
    """x -> Conv(x, DequantizeLinear(W), DequantizeLinear(int32 bias)), which fuses to an integer kernel.

    It fuses only if a quantizer reads its output, at most through a ReLU. With windows that tile the
    input -> the matmul of a Linear over patches. With a float input -> Conv with the dequantized
    weight, which is folded when the file is loaded.
    """
    x, output = node.inputs[0], node.outputs[0]
    assert x is not None
    if not is_dequantized(x):
        return _convolution(layer, x, _float_weight(layer, emit), emit)
    if not emit.options.explicit and _is_matmul(layer, x, output):
        return _lower_patches(layer, x, output, emit)
    weight = integer_kernel(layer, emit)
    bias = None if weight is None or emit.options.explicit else _integer_bias(layer, x, emit)
    return _convolution(layer, x, _float_weight(layer, emit) if weight is None else weight, emit, bias)


def _convolution(layer: QuantizedConv, x: ir.Value, weight: ir.Value, emit: Emitter, bias: ir.Value | None = None) -> ir.Value:
    """Returns the convolution plus the bias: as its third input, if that is given or the weight is float."""
    attributes = {
        "strides": list(layer.stride),
        "pads": list(layer.padding) * 2,
        "dilations": list(layer.dilation),
        "group": layer.groups,
    }
    is_float = weight.producer() is None or weight.producer().op_type != "DequantizeLinear"
    if (is_float or emit.options.explicit) and layer.bias is not None:
        bias = emit.constant("bias", to_numpy(layer.bias))
    y = emit.op("Conv", [x, weight] if bias is None else [x, weight, bias], attributes)
    if layer.bias is None or bias is not None:
        return y
    return emit.op("Add", [y, emit.constant("bias", to_numpy(layer.bias).reshape(-1, *[1] * len(layer.sides)))])


def _float_weight(layer: QuantizedConv, emit: Emitter) -> ir.Value:
    if emit.options.explicit:
        return emit.constant("weight", to_numpy(layer.quantized_weight()).reshape(layer.weight_shape))
    matrix = emit.op("Transpose", [weight_matrix(layer, emit, fuses=False)], {"perm": [1, 0]})
    return emit.op("Reshape", [matrix, emit.constant("weight_shape", list(layer.weight_shape))])


def _integer_bias(layer: QuantizedConv, x: ir.Value, emit: Emitter) -> ir.Value | None:
    """Returns the bias as dequantized int32; None if the layer's bias is no whole number of steps."""
    node = x.producer()
    while node is not None and node.op_type in MOVEMENTS:
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    scale = None if node is None or node.inputs[1] is None else node.inputs[1].const_value
    steps = None if scale is None else layer.bias_steps(torch.from_numpy(scale.numpy().copy()))
    if scale is None or steps is None or layer.bias is None or layer.quantizer is None:
        return None
    step = scale.numpy().reshape(1) * to_numpy(layer.quantizer.scale).reshape(-1)  # type: ignore[arg-type]
    codes = steps.cpu().numpy().astype(np.int32)
    if not np.array_equal(codes.astype(np.float32) * step, to_numpy(layer.bias)):
        return None
    scales = emit.constant("bias_scale", np.broadcast_to(step, codes.shape).astype(np.float32))
    return emit.op("DequantizeLinear", [emit.constant("bias_codes", codes), scales], {"axis": 0})


def _is_matmul(layer: QuantizedConv, x: ir.Value, output: ir.Value) -> bool:
    """Returns whether to multiply patches, which takes no longer than an integer kernel of a convolution."""
    sizes = [] if x.shape is None else list(x.shape)[2:]
    whole = not any(isinstance(size, int) and size % side for size, side in zip(sizes, layer.sides, strict=False))
    if layer.groups > 1 or not layer.tiles or not whole:
        return False
    return len(layer.sides) == 1 or max(layer.sides) > 1 or not _is_quantized(output)


def _is_quantized(value: ir.Value) -> bool:
    """Returns whether only a quantizer reads a value, at most through operators that kernels include."""
    readers = [use.node for use in value.uses()]
    if value.is_graph_output() or len(readers) != 1:
        return False
    (reader,) = readers
    if reader.op_type in _FUSED:
        return _is_quantized(reader.outputs[0])
    return reader.op_type == "QuantizeLinear" or (reader.domain == "qpass" and reader.op_type in ("Uniform", "ByteTable"))


def _lower_patches(layer: QuantizedConv, x: ir.Value, output: ir.Value, emit: Emitter) -> ir.Value:
    """Reshape, Transpose, MatMul, Transpose, Reshape: the matmul is that of a Linear."""
    assert x.shape is not None
    assert output.shape is not None
    sides, channels = layer.sides, x.shape[1]
    if not isinstance(channels, int):
        raise LoweringError(f"an image of shape {x.shape}", where=emit.prefix, expected="a fixed number of channels")
    grid = _grid(x, sides, emit)
    x = _cropped(x, sides, grid, emit)
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
    moved = emit.op("Transpose", [matmul_with_weight(layer, tokens, emit, 3)], {"perm": [0, 2, 1]})
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


def _cropped(x: ir.Value, sides: tuple[int, ...], grid: list[int | ir.Value], emit: Emitter) -> ir.Value:
    """Returns the part of an input that whole windows cover, where its size is dynamic."""
    assert x.shape is not None
    axes = [dim for dim, side in enumerate(sides, 2) if not _holds_whole(x.shape[dim], side)]
    if not axes:
        return x
    starts, along = emit.constant("crop_start", [0] * len(axes)), emit.constant("crop_axes", axes)
    ends = [emit.op("Mul", [grid[dim - 2], emit.constant(f"side_{dim}", [sides[dim - 2]])]) for dim in axes]
    end = emit.op("Concat", ends, {"axis": 0}) if len(ends) > 1 else ends[0]
    return emit.op("Slice", [x, starts, end, along], shape=x.shape)


def _holds_whole(size: int | ir.SymbolicDim, side: int) -> bool:
    """Returns whether a size is a whole number of windows, or fixed: then planning has looked at it."""
    return isinstance(size, int) or split_multiple(str(size.value))[0] % side == 0


def _shape(name: str, sizes: list[int | ir.Value], emit: Emitter) -> ir.Value:
    """Returns the shape input of a Reshape."""
    numbers = [size for size in sizes if isinstance(size, int)]
    if len(numbers) == len(sizes):
        return emit.constant(name, numbers)
    parts = [emit.constant(f"{name}_{i}", [size]) if isinstance(size, int) else size for i, size in enumerate(sizes)]
    return emit.op("Concat", parts, {"axis": 0})
