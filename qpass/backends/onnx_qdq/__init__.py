"""Lowering to standard ONNX operators, with QuantizeLinear / DequantizeLinear around integer codes."""

from qpass.backends.onnx_qdq.export import export_float, export_quantized

__all__ = ["export_float", "export_quantized"]
