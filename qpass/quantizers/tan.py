"""Tan quantizer for Softmax outputs. Paper: DopQ-ViT, https://arxiv.org/abs/2408.03291."""

from __future__ import annotations

import itertools
from typing import Any, Self

import torch
from torch import Tensor

from qpass.quantizers.base import Criterion, Quantizer, with_slope
from qpass.quantizers.search import WeightedRows, least_error

#: Candidates for s (quantiles of the data), and for -lo and hi.
SCALE_PERCENTILES = (0.99, 0.995, 0.999, 0.9995, 0.9999, 0.99999)
BENDS = (0.01, 0.3, 0.6, 0.9, 1.1, 1.25, 1.35, 1.45, 1.52)


class Tan(Quantizer):
    """Uniform codes on a tangent of the range.

    With u = clamp(x / s, 0, 1) and L = 2^k - 1:
    f(u) = (tan(lo + (hi - lo) u) - tan lo) / (tan hi - tan lo), q = [L f(u)],
    x̂ = s (arctan(tan lo + (tan hi - tan lo) q / L) - lo) / (hi - lo), with -π/2 < lo < hi < π/2.
    For x >= 0.

    From the paper: a tangent maps the range, so that codes are dense near zero (lo near -π/2) and
    optionally near the maximum (hi near π/2). Ours, because the paper's formula was not available: this
    two-parameter map, which covers every reading of its text, and the grid for lo, hi and s.

    Args:
        bits: Bit width, 2 to 8.
    """

    scale: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        self.register_buffer("scale", torch.tensor(1.0))
        self.register_buffer("low", torch.tensor(-1.0))
        self.register_buffer("high", torch.tensor(0.01))

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments that rebuild this quantizer, unfitted."""
        return {"bits": self.bits}

    @property
    def step(self) -> Tensor:
        """Step size between adjacent codes in the tangent; one element."""
        return (self.high.tan() - self.low.tan()) / self.code_max

    @property
    def slope(self) -> Tensor:
        """Angle per unit of x, (hi - lo) / s; one element."""
        return (self.high - self.low) / self.scale

    def set_parameters(self, scale: float, low: float, high: float) -> Self:
        """Sets s, lo and hi."""
        self.scale.fill_(scale)
        self.low.fill_(low)
        self.high.fill_(high)
        return self

    def fit(self, x: Tensor, weight: Tensor | None = None, criterion: Criterion | None = None) -> Self:
        """Searches a grid of s, lo and hi; see ``Quantizer.fit``."""
        rows = WeightedRows.of_tensor(x, weight)
        scales = sorted({max(rows.quantile(p).item(), torch.finfo(torch.float32).tiny) for p in SCALE_PERCENTILES})
        grid = [(scale, -low, high) for scale, low, high in itertools.product(scales, BENDS, BENDS)]
        best = least_error(grid, lambda candidate: self.set_parameters(*candidate), self, rows, criterion)
        return self.set_parameters(*best)

    def codes(self, x: Tensor) -> Tensor:
        """See ``Quantizer.codes``."""
        return self._position(self._tangent(x)).round()

    def _tangent(self, x: Tensor) -> Tensor:
        return (x * self.slope + self.low).clamp(self.low.item(), self.high.item()).tan()

    def _position(self, tangent: Tensor) -> Tensor:
        return (tangent - self.low.tan()) / self.step

    def forward(self, x: Tensor) -> Tensor:
        """See ``Quantizer.forward``."""
        return with_slope(x, self._value_and_slope) if self.enabled and x.requires_grad else super().forward(x)

    def _value_and_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns x̂ and dx̂/dx: (1 + t²) / (1 + t̂²) in [0, s], with tangents t, t̂ of x, x̂; else 0."""
        tangent = self._tangent(x)
        codes = self._position(tangent).round_()
        at_code = self.low.tan() + codes * self.step
        slope = (1 + tangent.square()) / (1 + at_code.square())
        return self.decode(codes), slope.masked_fill_((x > self.scale) | (x < 0), 0)

    def decode(self, codes: Tensor) -> Tensor:
        """See ``Quantizer.decode``."""
        tangent = self.low.tan()  # subtract its own arctangent, not lo, so that code 0 is exactly 0
        return ((tangent + codes.to(self.low.dtype) * self.step).atan() - tangent.atan()) / self.slope
