"""The shift-uniform-log2 quantizer for Softmax outputs. Paper: I&S-ViT, https://arxiv.org/abs/2311.10126, eq. 13-14."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from qpass.quantizers.base import Criterion, Quantizer, ste_mask, with_slope
from qpass.quantizers.search import WeightedRows, least_error

#: Candidates for η.
SHIFTS = tuple(sorted({2.0**-n for n in range(21)} | {0.001, 0.003, 0.01, 0.03, 0.1, 0.3}))
#: Of y, for a tensor of one value: any step will do that float32 can tell from none.
_LEAST_RANGE = 2.0**-10
#: Powers of two that a byte holds.
_OCTAVES_OF_A_BYTE = 7


class ShiftLog2(Quantizer):
    """Codes of equal steps on y = log2(x + η): with d = (hi - lo) / L and L = 2^k - 1, q = clamp([(y - lo) / d], 0, L).

    For x >= 0. The shift η bends the logarithm near zero, so that codes are not spent on values that do not matter.

    Args:
        bits: Width of the codes, 2 to 8.
        exponent_round: x̂ = 2^[lo + q d] - η as in the paper, whose inner rounding makes a bit shift of it and lets codes fall
            together; False keeps all 2^k values, x̂ = 2^(lo + q d) - η (ours).
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
        """The arguments that rebuild this quantizer, unfitted."""
        return {"bits": self.bits, "exponent_round": self.exponent_round}

    @property
    def step(self) -> Tensor:
        """d, the distance between two codes in log2(x + η); one element."""
        return (self.high - self.low) / self.code_max

    @property
    def scale(self) -> Tensor:
        """The greatest value; one element."""
        return self.decode(torch.tensor(float(self.code_max), device=self.low.device))

    def set_parameters(self, eta: float, least: float, greatest: float) -> Self:
        """Sets η and the range [lo, hi] that the values from ``least`` to ``greatest`` have under the logarithm."""
        low, high = math.log2(least + eta), math.log2(greatest + eta)
        self.eta.fill_(eta)
        self.low.fill_(low)
        self.high.fill_(max(high, low + _LEAST_RANGE))
        return self

    def fit(self, x: Tensor, weight: Tensor | None = None, criterion: Criterion | None = None) -> Self:
        """Searches η; lo and hi are those of the least and greatest value. See ``Quantizer.fit``."""
        rows = WeightedRows.of_tensor(x.clamp(min=0), weight)
        least, greatest = rows.quantile(0.0).item(), rows.quantile(1.0).item()
        best = least_error(SHIFTS, lambda eta: self.set_parameters(eta, least, greatest), self, rows, criterion)
        return self.set_parameters(best, least, greatest)

    def codes(self, x: Tensor) -> Tensor:
        """See ``Quantizer.codes``."""
        return self._position(x.clamp(min=0) + self.eta).round().clamp(0, self.code_max)

    def _position(self, shifted: Tensor) -> Tensor:
        # In natural logarithms and in this order, as the deployed graph computes it.
        return (shifted.log() - self.low * math.log(2)) / (self.step * math.log(2))

    def decode(self, codes: Tensor) -> Tensor:
        """See ``Quantizer.decode``."""
        return self._exponent(codes.to(self.low.dtype)).exp2() - self.eta

    def forward(self, x: Tensor) -> Tensor:
        """See ``Quantizer.forward``."""
        return with_slope(x, self._value_and_slope) if self.enabled and x.requires_grad else super().forward(x)

    def _value_and_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns x̂ and dx̂/dx = (x̂ + η) / (x + η), both roundings left out; 0 where a code was clamped."""
        shifted = x.clamp(min=0) + self.eta
        rounded = self._position(shifted).round_()
        value = self.decode(rounded.clamp(0, self.code_max))
        return value, ste_mask((value + self.eta) / shifted, rounded, 0, self.code_max)

    def _exponent(self, codes: Tensor) -> Tensor:
        exponent = self.low + codes * self.step
        return exponent.round() if self.exponent_round else exponent

    def integer_levels(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """See ``Quantizer.integer_levels``: where exponents are whole numbers that a byte spans, 2^e over the least of them."""
        exponents = self._exponent(torch.arange(self.code_max + 1, dtype=torch.float32, device=self.low.device))
        span = exponents[-1] - exponents[0]
        if not self.exponent_round or span > _OCTAVES_OF_A_BYTE:
            return None
        return (exponents - exponents[0]).exp2().to(torch.uint8), exponents[0].exp2(), -self.eta
