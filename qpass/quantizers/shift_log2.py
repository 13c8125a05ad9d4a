"""Shift-uniform-log2 quantizer for Softmax outputs.

Paper: I&S-ViT, https://arxiv.org/abs/2311.10126, eq. 13-14.
"""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from qpass.quantizers.base import Criterion, Quantizer, ste_mask, with_slope
from qpass.quantizers.search import WeightedRows, least_error

#: The paper's candidates for η, from its code.
PAPER_SHIFTS = (0.001, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.1, 0.2, 0.5, 1.0)
#: Candidates for η: the paper's and ours.
SHIFTS = tuple(sorted({2.0**-n for n in range(21)} | {0.003, 0.3} | set(PAPER_SHIFTS)))
#: Smallest range of y, for a constant tensor: any step that float32 can resolve will do.
_LEAST_RANGE = 2.0**-10
#: Exponent of the largest power of two that a byte holds.
_OCTAVES_OF_A_BYTE = 7


class ShiftLog2(Quantizer):
    """Uniform codes on y = log2(x + η): q = clamp([(y - lo) / d], 0, L).

    L = 2^k - 1, d = (hi - lo) / L, for x >= 0. The shift η flattens the logarithm near zero, so that
    no codes are spent on values that do not matter.

    Args:
        bits: Bit width, 2 to 8.
        exponent_round: Decode as in the paper, x̂ = 2^[lo + q d] - η. Its inner rounding makes the
            power a bit shift but lets codes coincide. False keeps all 2^k levels (ours):
            x̂ = 2^(lo + q d) - η.
    """

    eta: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, bits: int, *, exponent_round: bool = False) -> None:
        super().__init__(bits)
        self.exponent_round = exponent_round
        self.register_buffer("eta", torch.tensor(1.0))
        self.register_buffer("low", torch.tensor(0.0))
        self.register_buffer("high", torch.tensor(1.0))

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments that rebuild this quantizer, unfitted."""
        return {"bits": self.bits, "exponent_round": self.exponent_round}

    @property
    def step(self) -> Tensor:
        """Step size d between adjacent codes in log2(x + η); one element."""
        return (self.high - self.low) / self.code_max

    @property
    def scale(self) -> Tensor:
        """Largest level; one element."""
        return self.decode(torch.tensor(float(self.code_max), device=self.low.device))

    def set_parameters(self, eta: float, least: float, greatest: float) -> Self:
        """Sets η and [lo, hi], the image of [``least``, ``greatest``] under log2(x + η)."""
        low, high = math.log2(least + eta), math.log2(greatest + eta)
        self.eta.fill_(eta)
        self.low.fill_(low)
        self.high.fill_(max(high, low + _LEAST_RANGE))
        return self

    def fit(self, x: Tensor, weight: Tensor | None = None, criterion: Criterion | None = None) -> Self:
        """Searches η; lo and hi come from the data's minimum and maximum. See ``Quantizer.fit``."""
        rows = WeightedRows.of_tensor(x.clamp(min=0), weight)
        least, greatest = rows.quantile(0.0).item(), rows.quantile(1.0).item()
        best = least_error(SHIFTS, lambda eta: self.set_parameters(eta, least, greatest), self, rows, criterion)
        return self.set_parameters(best, least, greatest)

    def codes(self, x: Tensor) -> Tensor:
        """See ``Quantizer.codes``."""
        return self._position(x.clamp(min=0) + self.eta).round().clamp(0, self.code_max)

    def _position(self, shifted: Tensor) -> Tensor:
        # Natural logarithms in this order, exactly as the deployed graph computes them.
        return (shifted.log() - self.low * math.log(2)) / (self.step * math.log(2))

    def decode(self, codes: Tensor) -> Tensor:
        """See ``Quantizer.decode``."""
        return self._exponent(codes.to(self.low.dtype)).exp2() - self.eta

    def forward(self, x: Tensor) -> Tensor:
        """See ``Quantizer.forward``."""
        return with_slope(x, self._value_and_slope) if self.enabled and x.requires_grad else super().forward(x)

    def _value_and_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns x̂ and dx̂/dx = (x̂ + η) / (x + η), ignoring both roundings; 0 where clamped."""
        shifted = x.clamp(min=0) + self.eta
        rounded = self._position(shifted).round_()
        value = self.decode(rounded.clamp(0, self.code_max))
        return value, ste_mask((value + self.eta) / shifted, rounded, 0, self.code_max)

    def _exponent(self, codes: Tensor) -> Tensor:
        exponent = self.low + codes * self.step
        return exponent.round() if self.exponent_round else exponent

    def integer_levels(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """See ``Quantizer.integer_levels``: n = 2^(e - min e), for integer exponents e that fit a byte."""
        exponents = self._exponent(torch.arange(self.code_max + 1, dtype=torch.float32, device=self.low.device))
        span = exponents[-1] - exponents[0]
        if not self.exponent_round or span > _OCTAVES_OF_A_BYTE:
            return None
        return (exponents - exponents[0]).exp2().to(torch.uint8), exponents[0].exp2(), -self.eta
