"""Recipes: what to quantize, how, and to how many bits."""

from qpass.config.recipe import QuantConfig
from qpass.config.spec import (
    ACTIVATION_PERCENTILES,
    CODE_ZERO,
    SOFTMAX_PERCENTILES,
    TENSOR_ROLES,
    WEIGHT_PERCENTILES,
    QuantSpec,
)
from qpass.runtime.public_names import only

__all__ = [
    "ACTIVATION_PERCENTILES",
    "CODE_ZERO",
    "SOFTMAX_PERCENTILES",
    "TENSOR_ROLES",
    "WEIGHT_PERCENTILES",
    "QuantConfig",
    "QuantSpec",
]
__dir__ = only(__all__)
