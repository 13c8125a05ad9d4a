"""The modules that a rewritten graph calls."""

from qpass.nn.layers import QuantizedConv2d, QuantizedLayer, QuantizedLinear

__all__ = ["QuantizedConv2d", "QuantizedLayer", "QuantizedLinear"]
