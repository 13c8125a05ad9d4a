"""Quantizers: tensors to integer codes and back. They know torch and nothing of graphs or ONNX."""

from qpass.config import QuantSpec
from qpass.quantizers.base import Criterion, Quantizer
from qpass.quantizers.dynamic_focus import DynamicFocus
from qpass.quantizers.log2 import Log2, LogSqrt2
from qpass.quantizers.look_up import LookUp
from qpass.quantizers.shift_log2 import ShiftLog2
from qpass.quantizers.tan import Tan
from qpass.quantizers.uniform import Uniform

_LOGARITHMS: dict[str, type[Log2]] = {"log2": Log2, "log-sqrt2": LogSqrt2}
QUANTIZERS: dict[str, type[Quantizer]] = {
    "uniform": Uniform,
    **_LOGARITHMS,
    "dynamic-focus": DynamicFocus,
    "shift-log2": ShiftLog2,
    "tan": Tan,
}


def build_quantizer(spec: QuantSpec, *, signed: bool = False, axis: int | None = None, first_code: int = 0) -> Quantizer:
    """Returns the unfitted quantizer that a spec asks for.

    Args:
        spec: What to build.
        signed: Store codes as signed integers (what integer kernels want of their second operand). Only uniform
            codes can be; the others ignore it.
        axis: Dimension with one scale for each index (uniform only), or None for one scale in all.
        first_code: The least of unsigned uniform codes.
    """
    if spec.quantizer != "uniform":
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
    if spec.quantizer == "dynamic-focus":
        return DynamicFocus(spec.bits, code_zero=spec.code_zero)
    if spec.quantizer == "shift-log2":
        return ShiftLog2(spec.bits, exponent_round=spec.exponent_round)
    if spec.quantizer == "tan":
        return Tan(spec.bits)
    return _LOGARITHMS[spec.quantizer](spec.bits, percentiles=spec.percentiles)


__all__ = [
    "QUANTIZERS",
    "Criterion",
    "DynamicFocus",
    "Log2",
    "LogSqrt2",
    "LookUp",
    "Quantizer",
    "ShiftLog2",
    "Tan",
    "Uniform",
    "build_quantizer",
]
