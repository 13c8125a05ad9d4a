"""Rewrite rules on the exported ONNX graph, one a file: they shape what onnxruntime fuses and keep the numbers."""

from collections.abc import Callable

import onnx_ir as ir

from qpass.backends.onnx_qdq.rules.dequantize_after_movement import dequantize_after_movement
from qpass.backends.onnx_qdq.rules.fold_matmul_scale import fold_matmul_scale
from qpass.backends.onnx_qdq.rules.integer_matmul import integer_matmul
from qpass.backends.onnx_qdq.rules.integer_output import integer_output
from qpass.backends.onnx_qdq.rules.log_softmax import log_softmax
from qpass.backends.onnx_qdq.rules.offset_matmul import offset_matmul
from qpass.backends.onnx_qdq.rules.residual_rows import residual_rows

#: In order: each makes the pattern that the next one looks for.
RULES: tuple[Callable[[ir.Graph], int], ...] = (
    log_softmax,
    dequantize_after_movement,
    residual_rows,
    offset_matmul,
    integer_matmul,
    fold_matmul_scale,
    integer_output,
)

__all__ = ["RULES"]
