"""What TensorRT's parser and its guide ask of explicit quantization, checked on a file.

- Parser (onnx-tensorrt, docs/operators.md): QuantizeLinear and DequantizeLinear with zero points of 0;
  INT8 only between them; UINT8 as input or output of a network only; no integer products, shifts or casts
  of codes. A scale for each channel counts along ``axis``, and a zero point has the size of its scale.
- Guide ("Fused Attention"): the factor of attention stands in front of the first product.
- Guide ("Working with Quantized Types", "Explicit Quantization"): all inputs of products are quantized,
  weights by channel and activations by tensor; a DequantizeLinear stands between codes of a weight and the
  product; outputs are not quantized. Biases are float: the parser takes no int32 there.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

#: Operators of these networks that the parser's list has, with float operands.
FLOAT_OPERATORS = {
    *("Add", "ArgMax", "Concat", "Conv", "Expand", "Gather", "Gelu", "Gemm", "Greater", "LayerNormalization", "Less", "MatMul"),
    *("Mul", "ReduceMean", "Relu", "Reshape", "Shape", "Sin", "Slice", "Softmax", "Split", "Transpose", "Where"),
}
_FLOATS = (TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.INT32)


def check_explicit_form(path: Path) -> dict[str, int]:
    """Asserts the form of a file; returns the number of products by operator whose inputs are quantized."""
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert model.ir_version <= 9
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            readers[name].append(node)
    products: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            _check_pair(node, constants, producers, readers)
            continue
        assert node.op_type in FLOAT_OPERATORS, node.op_type
        if node.op_type in ("MatMul", "Conv") and _check_product(node, constants, producers, readers):
            products[node.op_type] = products.get(node.op_type, 0) + 1
    outputs = {value.name for value in model.graph.output}
    for name, tensor in constants.items():
        kinds = {node.op_type for node in readers[name]}
        if tensor.data_type == TensorProto.INT8:
            assert kinds <= {"QuantizeLinear", "DequantizeLinear"}, (name, kinds)
        else:
            assert tensor.data_type in _FLOATS, (name, tensor.data_type)
    assert not [name for name in outputs if producers[name].op_type == "QuantizeLinear"]
    return products


def _check_pair(
    node: onnx.NodeProto,
    constants: dict[str, TensorProto],
    producers: dict[str, onnx.NodeProto],
    readers: dict[str, list[onnx.NodeProto]],
) -> None:
    """Asserts scale, zero point and neighbours of a QuantizeLinear or DequantizeLinear."""
    x, scale, *zero = node.input
    values = onnx.numpy_helper.to_array(constants[scale])
    assert values.dtype == np.float32
    assert (values > 0).all()
    if zero:
        zeros = onnx.numpy_helper.to_array(constants[zero[0]])
        assert (zeros.dtype, zeros.size) == (np.int8, values.size)
        assert not zeros.any()
    if node.op_type == "QuantizeLinear":
        assert zero, "without one, codes are uint8 in ONNX"
        assert values.size == 1
        assert x not in constants
        assert {reader.op_type for reader in readers[node.output[0]]} == {"DequantizeLinear"}
    elif x in constants:
        assert constants[x].data_type == TensorProto.INT8
        assert values.ndim == 1
        (product,) = readers[node.output[0]]
        axis = {"MatMul": 1, "Conv": 0}[product.op_type]
        assert [entry.i for entry in node.attribute if entry.name == "axis"] == [axis]
        assert list(product.input).index(node.output[0]) == 1
        assert constants[x].dims[axis] == values.size
        assert len(constants[x].dims) == 2 or product.op_type == "Conv"
    else:
        quantize = producers[x]
        assert quantize.op_type == "QuantizeLinear"
        assert list(quantize.input[1:]) == list(node.input[1:])


def _check_product(
    node: onnx.NodeProto,
    constants: dict[str, TensorProto],
    producers: dict[str, onnx.NodeProto],
    readers: dict[str, list[onnx.NodeProto]],
) -> bool:
    """Asserts that both factors are quantized or neither; returns which."""
    quantized = [name in producers and producers[name].op_type == "DequantizeLinear" for name in node.input[:2]]
    assert len(set(quantized)) == 1, (node.name, quantized)
    if node.op_type == "MatMul" and quantized[0] and producers[node.input[1]].input[0] not in constants:
        assert not {"Mul", "Div"} & {reader.op_type for reader in readers[node.output[0]]}, "attention's factor is behind"
    for bias in node.input[2:]:
        assert constants[bias].data_type == TensorProto.FLOAT
    return quantized[0]
