"""Modules called by a rewritten graph."""

from qpass.nn.compensated import CompensatedLinear
from qpass.nn.convolution import QuantizedConv
from qpass.nn.layers import QuantizedLayer, QuantizedLinear, ResidualFactor

__all__ = ["CompensatedLinear", "QuantizedConv", "QuantizedLayer", "QuantizedLinear", "ResidualFactor"]
