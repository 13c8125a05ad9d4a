"""Logarithmic quantizers for Softmax outputs.

Paper: RepQ-ViT, https://arxiv.org/abs/2212.08254, section 3.3.
"""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from qpass.config import ACTIVATION_PERCENTILES
from qpass.quantizers.base import LEAST_FLOAT, Criterion, Quantizer, round_clamp_ste
from qpass.quantizers.search import WeightedRows, least_error


class Log2(Quantizer):
    """q = clamp([-log2(x / s) m], 0, L), x̂ = s 2^(-q/m), L = 2^k - 1, with m = ``steps_per_octave`` = 1.

    For x >= 0. The stored code is L - q, so that codes ascend with their values, as in every quantizer.

    Args:
        bits: Bit width, 2 to 8.
        percentiles: Candidates for s tried by ``fit``: quantiles of the data, each in (0.5, 1].
        zero_code: Decode the smallest code to 0 instead of s 2^(-L/m). The paper's formula has no zero.
            The published code maps everything below the last code to 0: 2^k + 1 values, one too many
            for k bits. This option keeps 2^k.
    """

    steps_per_octave = 1
    scale: Tensor

    def __init__(self, bits: int, *, percentiles: tuple[float, ...] = ACTIVATION_PERCENTILES, zero_code: bool = True) -> None:
        super().__init__(bits)
        self.percentiles, self.zero_code = tuple(percentiles), zero_code
        self.register_buffer("scale", torch.tensor(1.0))

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments that rebuild this quantizer, unfitted."""
        return {"bits": self.bits, "percentiles": self.percentiles, "zero_code": self.zero_code}

    @property
    def log_step(self) -> float:
        """Step size between adjacent codes in ln x."""
        return math.log(2) / self.steps_per_octave

    def set_parameters(self, scale: Tensor) -> Self:
        """Sets the scale s, the largest level; one element."""
        self.scale = scale.detach().to(self.scale.device, torch.float32)
        return self

    def fit(self, x: Tensor, weight: Tensor | None = None, criterion: Criterion | None = None) -> Self:
        """Searches s over the percentiles; see ``Quantizer.fit``."""
        rows = WeightedRows.of_tensor(x, weight)
        scales = [scale for p in self.percentiles if (scale := rows.quantile(p)[0].float()) > 0] or [torch.tensor(1.0)]
        return self.set_parameters(least_error(scales, self.set_parameters, self, rows, criterion))

    @property
    def least_value(self) -> float:
        """Smallest level above zero."""
        return self.scale.item() * math.exp((int(self.zero_code) - self.code_max) * self.log_step)

    def codes(self, x: Tensor) -> Tensor:
        """See ``Quantizer.codes``."""
        # Natural logarithms in this order, as the deployed graph computes them from a LogSoftmax.
        distance = (x.clamp(min=LEAST_FLOAT).log() - self.scale.log()) / self.log_step
        return round_clamp_ste(distance, self.code_min - self.code_max, 0) + self.code_max

    def decode(self, codes: Tensor) -> Tensor:
        """See ``Quantizer.decode``."""
        codes = codes.to(self.scale.dtype)
        value = torch.exp((codes - self.code_max) * self.log_step) * self.scale
        return torch.where(codes == 0, torch.zeros_like(value), value) if self.zero_code else value


class LogSqrt2(Log2):
    """``Log2`` with base sqrt(2), m = 2: twice the resolution over half the range (RepQ-ViT eq. 8-9)."""

    steps_per_octave = 2
