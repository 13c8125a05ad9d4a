"""Which graphs explicit quantization expresses: signed codes without zero points, in equal steps."""

from __future__ import annotations

from torch import fx

from qpass.errors import LoweringError
from qpass.nn import QuantizedLayer
from qpass.quantizers import Quantizer, Uniform
from qpass.quantizers.base import GREATEST_INT8

#: Names that an error lists.
_SHOWN = 3


def check_explicit(graph_module: fx.GraphModule, target: str) -> None:
    """Rejects a graph that a target with explicit quantization cannot express.

    Args:
        graph_module: A frozen graph.
        target: Name of the target.

    Raises:
        LoweringError: Names the quantizers, and how to quantize instead.
    """
    weights = {f"{name}.quantizer" for name, module in graph_module.named_modules() if isinstance(module, QuantizedLayer)}
    found = {
        name: reason
        for name, module in graph_module.named_modules()
        if isinstance(module, Quantizer) and (reason := _reason(module, is_weight=name in weights))
    }
    if not found:
        return
    shown = "; ".join(f"{name.removesuffix('_quantizer')}: {reason}" for name, reason in list(found.items())[:_SHOWN])
    more = f"; {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    raise LoweringError(
        f"{target} cannot express {shown}{more}",
        where="target",
        expected="uniform 8-bit codes without zero points",
        hint=f"quantize with {{preset: w8a8, signed_codes: true}}, or with qpass quantize --target {target}",
    )


def _reason(quantizer: Quantizer, *, is_weight: bool) -> str:
    """Returns what explicit quantization does not express in a quantizer; "" if nothing."""
    if not isinstance(quantizer, Uniform):
        return f"the table of a {type(quantizer).__name__}" if is_weight else f"a {type(quantizer).__name__} quantizer"
    if is_weight:  # its zero points are subtracted from the codes
        zero = quantizer.zero_point
        reach = max(quantizer.code_max - zero.min().item(), zero.max().item() - quantizer.code_min)
        return "zero points" if reach > GREATEST_INT8 + 1 else ""
    if quantizer.bits < 8:
        return f"{quantizer.bits}-bit activations"
    return "" if quantizer.signed and not quantizer.zero_point.any() else "a zero point"
