"""What ``signed_codes`` makes of a recipe's specs, and the specs that have no such form."""

from __future__ import annotations

import dataclasses

from qpass.config.options import QuantizerName
from qpass.config.spec import QuantSpec
from qpass.errors import ConfigError

_BITS = 8
_WHY = "TensorRT multiplies 8-bit codes in equal steps around zero, and has no tables"


def signed_spec(spec: QuantSpec, role: str) -> QuantSpec:
    """Returns a tensor's spec without a zero point.

    A weight below 8 bits keeps its own: the codes minus the zero point still fit a signed byte.
    """
    if spec.quantizer != QuantizerName.UNIFORM or (role == "weight" and spec.bits < _BITS):
        return spec
    return dataclasses.replace(spec, symmetric=True)


def check_signed_spec(spec: QuantSpec | None, role: str, where: str) -> None:
    """Rejects a spec that signed 8-bit codes cannot express.

    Args:
        spec: The spec; None for a tensor in float.
        role: One of ``SPEC_FIELDS``.
        where: Field or rule that the spec comes from, for messages.

    Raises:
        ConfigError: If an activation has fewer bits, the quantizer is not uniform, or the weight has a
            residual branch.
    """
    if spec is None:
        return
    if spec.quantizer != QuantizerName.UNIFORM:
        raise ConfigError(
            f"quantizer={spec.quantizer!r} with signed_codes",
            where=where,
            expected=f"'uniform': {_WHY}",
            hint="take w8a8 or w4a8, or set quantizer: uniform",
        )
    if role != "weight" and spec.bits != _BITS:
        raise ConfigError(
            f"{spec.bits} bits with signed_codes", where=where, expected=f"8: {_WHY}", hint="take w8a8 or w4a8, or set bits: 8"
        )
    if spec.residual_rank:
        raise ConfigError(
            f"residual_rank={spec.residual_rank} with signed_codes", where=where, expected="0", hint="leave the rank out"
        )
