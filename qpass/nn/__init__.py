"""Modules called by a rewritten graph."""

from qpass.nn.compensated import CompensatedLinear
from qpass.nn.convolution import QuantizedConv
from qpass.nn.layers import QuantizedLayer, QuantizedLinear, ResidualFactor
from qpass.runtime.public_names import only

__all__ = ["CompensatedLinear", "QuantizedConv", "QuantizedLayer", "QuantizedLinear", "ResidualFactor"]
__dir__ = only(__all__)
