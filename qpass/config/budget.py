"""``BudgetConfig``: how much a network may cost, and the candidate bit widths."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qpass.config.fields import at_least_one, check_fields, number, optional, several, whole
from qpass.errors import ConfigError, check_keys

#: Fields that are limits.
LIMITS = ("activation_bits", "weight_bits", "file_mb")

_CHECKS = {
    **dict.fromkeys(LIMITS, optional(number(lambda limit: limit > 0, "a number above 0"))),
    **dict.fromkeys(("activation_widths", "weight_widths"), several(whole(2, 8), "whole numbers from 2 to 8")),
    "samples": at_least_one,
}


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """Limits on the mean bit widths and the file size, within which bit widths are allocated.

    Attributes:
        activation_bits: Maximum mean bit width of matmul inputs, weighted by the multiply-adds that
            read them.
        weight_bits: Maximum mean bit width of the weights.
        file_mb: Maximum size of the ONNX file, in 10^6 bytes.
        activation_widths: Candidate bit widths of activations, used with ``activation_bits``.
        weight_widths: Candidate bit widths of weights, used with ``weight_bits`` or ``file_mb``.
        samples: Number of calibration samples on which errors are measured.

    Example:
        >>> BudgetConfig(activation_bits=5).activation_widths
        (4, 8)
    """

    activation_bits: float | None = None
    weight_bits: float | None = None
    file_mb: float | None = None
    activation_widths: tuple[int, ...] = (4, 8)
    weight_widths: tuple[int, ...] = (2, 3, 4, 5, 6, 8)
    samples: int = 64

    def __post_init__(self) -> None:
        check_fields(self, _CHECKS, "budget.")
        if all(getattr(self, name) is None for name in LIMITS):
            raise ConfigError("no limit is given", where="budget", expected=f"one of {', '.join(LIMITS)}")
        for name in ("activation_widths", "weight_widths"):
            object.__setattr__(self, name, tuple(sorted(set(getattr(self, name)))))

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any], base: BudgetConfig | None = None) -> BudgetConfig:
        """Returns ``base`` (None: the defaults) with these fields replaced.

        Raises:
            ConfigError: For an unknown key or an invalid value.
        """
        check_keys(data, (f.name for f in dataclasses.fields(cls)), "budget")
        return cls(**{**(dataclasses.asdict(base) if base else {}), **data})
