"""How much a network may cost, and which widths are tried for it: ``BudgetConfig``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qpass.errors import ConfigError, check_keys

#: The fields that are limits.
LIMITS = ("activation_bits", "weight_bits", "file_mb")


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """Limits that the widths of all tensors keep together; within them the network's output gets the least error.

    Attributes:
        activation_bits: Greatest mean width of the inputs of products, weighted by the multiply-adds that read them.
        weight_bits: Greatest mean width of the weights.
        file_mb: Greatest size of the ONNX file, in 10^6 bytes.
        activation_widths: Candidates for each activation, where ``activation_bits`` is given.
        weight_widths: Candidates for each weight, where ``weight_bits`` or ``file_mb`` is given.
        samples: How many calibration samples the errors are measured on.

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
        if all(getattr(self, name) is None for name in LIMITS):
            raise ConfigError("no limit is given", where="budget", expected=f"one of {', '.join(LIMITS)}")
        for name in LIMITS:
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (number and value > 0):
                raise ConfigError(f"got {value!r}", where=f"budget.{name}", expected="a number above 0, or None")
        for name in ("activation_widths", "weight_widths"):
            widths = getattr(self, name)
            if not isinstance(widths, list | tuple) or not widths or not all(width in range(2, 9) for width in widths):
                raise ConfigError(f"got {widths!r}", where=f"budget.{name}", expected="whole numbers from 2 to 8")
            object.__setattr__(self, name, tuple(sorted(set(widths))))
        if isinstance(self.samples, bool) or not isinstance(self.samples, int) or self.samples < 1:
            raise ConfigError(f"got {self.samples!r}", where="budget.samples", expected="a whole number above 0")

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any], base: BudgetConfig | None = None) -> BudgetConfig:
        """Returns ``base`` (None: the defaults) with these fields changed.

        Raises:
            ConfigError: For an unknown key or a bad value.
        """
        check_keys(data, (f.name for f in dataclasses.fields(cls)), "budget")
        return cls(**{**(dataclasses.asdict(base) if base else {}), **data})
