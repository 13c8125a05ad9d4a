"""What to change in a tensor's spec so that it has more bits: candidates for a rule."""

from __future__ import annotations

import dataclasses
from typing import Any

from qpass.config.options import QuantizerName
from qpass.config.spec import QuantSpec

#: Bit widths to which weights are widened. 7-bit codes take nearly as many bytes as 8-bit ones.
WEIGHT_WIDTHS = (3, 4, 5, 6, 8)
#: Narrowest weights whose codes have no zero point, as in the presets.
SYMMETRIC_FROM = 6


def wider_changes(role: str, spec: QuantSpec) -> dict[int, dict[str, Any]]:
    """Returns the changes that widen a spec, by bit width, as a rule states them.

    Weights are widened step by step, activations to 8 bits: on a processor, narrower codes take
    bytes too. A Softmax output of 8 bits has equal steps, which an integer product reads.

    Args:
        role: ``"weight"``, ``"activation"`` or ``"post_softmax"``.
        spec: The present spec.
    """
    widths = WEIGHT_WIDTHS if role == "weight" else (8,)
    changes: dict[int, dict[str, Any]] = {bits: {"bits": bits} for bits in widths if bits > spec.bits}
    for bits, change in changes.items():
        if role == "weight" and bits >= SYMMETRIC_FROM and spec.quantizer == QuantizerName.UNIFORM and not spec.symmetric:
            change["symmetric"] = True
        if role == "post_softmax" and spec.quantizer != QuantizerName.UNIFORM:
            change |= {"quantizer": QuantizerName.UNIFORM.value, "tabulated": False}
    return changes


def wider_specs(role: str, spec: QuantSpec) -> dict[int, QuantSpec]:
    """Returns the present spec and its wider ones, by bit width."""
    return {spec.bits: spec} | {bits: dataclasses.replace(spec, **change) for bits, change in wider_changes(role, spec).items()}
