"""The modules that a rewritten graph calls."""

from qpass.nn.compensated import CompensatedLinear
from qpass.nn.layers import QuantizedConv2d, QuantizedLayer, QuantizedLinear, ResidualFactor

__all__ = ["CompensatedLinear", "QuantizedConv2d", "QuantizedLayer", "QuantizedLinear", "ResidualFactor"]
