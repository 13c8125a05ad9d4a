"""Lowering to standard ONNX operators, with QuantizeLinear / DequantizeLinear around integer codes."""

from qpass.backends.onnx_qdq.export import export_float, export_quantized
from qpass.runtime.public_names import only

__all__ = ["export_float", "export_quantized"]
__dir__ = only(__all__)
