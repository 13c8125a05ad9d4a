"""Multiply-adds of a profiled graph, and the machine's peak integer throughput."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from qpass.backends.onnxruntime.session import OrtSession

#: Operators that multiply the rows of their first input by a matrix.
_MATMULS = (
    "MatMul",
    "FusedMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "QLinearMatMul",
    "MatMulNBits",
)
_GEMMS = ("Gemm", "FusedGemm", "QGemm")
#: Convolutions, and the index of their weight input.
_CONVOLUTIONS = {"Conv": 1, "FusedConv": 1, "ConvInteger": 1, "QLinearConv": 3}
#: Side of the square matrices used to measure the peak: large enough to fill the kernels, small
#: enough for a cache.
_PEAK_SIZE = 1024


def multiply_adds(
    node: onnx.NodeProto, first: Sequence[int], output: Sequence[int], weights: Mapping[str, Sequence[int]]
) -> int:
    """Returns the multiply-adds of one node; 0 without matrices to multiply, and for Einsum (not counted).

    Args:
        node: A node of the optimised graph.
        first: Shape of its first input.
        output: Shape of its output.
        weights: Shapes of the graph's constants.
    """
    results = math.prod(output)
    if node.op_type in _MATMULS:
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return results * first[-2 if transposed else -1]
    if node.op_type in _GEMMS:
        return math.prod(first) * output[-1]
    if node.op_type in _CONVOLUTIONS:
        weight = weights.get(node.input[_CONVOLUTIONS[node.op_type]] if node.input else "")
        return 0 if weight is None else results * math.prod(weight[1:])
    return 0


def integer_peak(threads: int = 1, *, runs: int = 20) -> float:
    """Measures this machine's integer throughput on one large square uint8 x int8 product.

    Args:
        threads: Intra-op threads.
        runs: Number of runs; the fastest counts.

    Returns:
        Operations per second; a multiply-add counts as two.
    """
    n = _PEAK_SIZE
    codes = np.random.default_rng(0).integers(-127, 128, (n, n)).astype(np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "peak",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [n, n])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [n, n])],
        [onnx.numpy_helper.from_array(codes, "w")],
    )
    session = OrtSession(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), threads=threads)
    feed = {"x": np.random.default_rng(1).integers(0, 256, (n, n)).astype(np.uint8)}
    fastest = math.inf
    for _ in range(runs):
        start = time.perf_counter()
        session.run(feed)
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * n**3 / fastest
