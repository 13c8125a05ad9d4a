"""Quantizers: tensors to integer codes and back, without knowledge of graphs or ONNX."""

import dataclasses

from qpass.config import QuantSpec
from qpass.config.options import QuantizerName
from qpass.quantizers.base import Criterion, Quantizer
from qpass.quantizers.byte_table import ByteTable
from qpass.quantizers.codebook import Codebook
from qpass.quantizers.dynamic_focus import DynamicFocus
from qpass.quantizers.log2 import Log2, LogSqrt2
from qpass.quantizers.look_up import LookUp
from qpass.quantizers.shift_log2 import ShiftLog2
from qpass.quantizers.tan import Tan
from qpass.quantizers.uniform import Uniform
from qpass.quantizers.weight_codebook import WeightCodebook
from qpass.runtime.public_names import only

_LOGARITHMS: dict[str, type[Log2]] = {QuantizerName.LOG2: Log2, QuantizerName.LOG_SQRT2: LogSqrt2}
QUANTIZERS: dict[str, type[Quantizer]] = {
    QuantizerName.UNIFORM: Uniform,
    QuantizerName.CODEBOOK: Codebook,
    **_LOGARITHMS,
    QuantizerName.DYNAMIC_FOCUS: DynamicFocus,
    QuantizerName.SHIFT_LOG2: ShiftLog2,
    QuantizerName.TAN: Tan,
}


def build_quantizer(spec: QuantSpec, *, signed: bool = False, axis: int | None = None, first_code: int = 0) -> Quantizer:
    """Returns an unfitted quantizer built from a spec.

    Args:
        spec: The spec.
        signed: Store codes as signed integers, as integer kernels require of their second operand.
            Quantizers of Softmax outputs ignore it.
        axis: Dimension with one scale per index (uniform and codebook), or None for a single scale. 0
            is that of a weight's output channels.
        first_code: Smallest code of an unsigned uniform quantizer.
    """
    if spec.quantizer == QuantizerName.CODEBOOK and spec.bits == 8:  # every level of 8 bits
        spec = dataclasses.replace(spec, quantizer=QuantizerName.UNIFORM.value, symmetric=axis == 0)
    if spec.quantizer == QuantizerName.CODEBOOK:
        if axis == 0:
            return WeightCodebook(spec.bits, channels=spec.channels_per_table)
        return Codebook(spec.bits, signed=signed, axis=axis, percentiles=spec.percentiles, free_zero_point=axis is not None)
    if spec.quantizer != QuantizerName.UNIFORM:
        quantizer = _for_softmax(spec)
        quantizer.tabulated = spec.tabulated
        return quantizer
    signed = signed or spec.symmetric
    return Uniform(
        spec.bits,
        symmetric=spec.symmetric,
        signed=signed,
        axis=axis,
        percentiles=spec.percentiles,
        first_code=0 if signed else first_code,
    )


def _for_softmax(spec: QuantSpec) -> Quantizer:
    if spec.quantizer == QuantizerName.DYNAMIC_FOCUS:
        return DynamicFocus(spec.bits, code_zero=spec.code_zero)
    if spec.quantizer == QuantizerName.SHIFT_LOG2:
        return ShiftLog2(spec.bits, exponent_round=spec.exponent_round)
    if spec.quantizer == QuantizerName.TAN:
        return Tan(spec.bits)
    return _LOGARITHMS[spec.quantizer](spec.bits, percentiles=spec.percentiles)


__all__ = [
    "QUANTIZERS",
    "ByteTable",
    "Codebook",
    "Criterion",
    "DynamicFocus",
    "Log2",
    "LogSqrt2",
    "LookUp",
    "Quantizer",
    "ShiftLog2",
    "Tan",
    "Uniform",
    "WeightCodebook",
    "build_quantizer",
]
__dir__ = only(__all__)
