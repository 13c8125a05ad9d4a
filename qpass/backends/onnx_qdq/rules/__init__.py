"""Rewrite rules for the ONNX graph, one per file: they change what a runtime fuses, not results."""

from qpass.backends.onnx_qdq.rules.contrib_linear import contrib_linear
from qpass.backends.onnx_qdq.rules.contrib_matmul import contrib_matmul
from qpass.backends.onnx_qdq.rules.dequantize_after_movement import dequantize_after_movement
from qpass.backends.onnx_qdq.rules.dequantize_sums import dequantize_sums
from qpass.backends.onnx_qdq.rules.fold_matmul_scale import fold_matmul_scale
from qpass.backends.onnx_qdq.rules.integer_matmul import integer_matmul
from qpass.backends.onnx_qdq.rules.integer_output import integer_output
from qpass.backends.onnx_qdq.rules.log_softmax import log_softmax
from qpass.backends.onnx_qdq.rules.offset_matmul import offset_matmul
from qpass.backends.onnx_qdq.rules.residual_rows import residual_rows
from qpass.backends.onnx_qdq.rules.silu_of_codes import contrib_silu, silu_of_codes
from qpass.runtime.public_names import only

__all__ = [
    "contrib_linear",
    "contrib_matmul",
    "contrib_silu",
    "dequantize_after_movement",
    "dequantize_sums",
    "fold_matmul_scale",
    "integer_matmul",
    "integer_output",
    "log_softmax",
    "offset_matmul",
    "residual_rows",
    "silu_of_codes",
]
__dir__ = only(__all__)
