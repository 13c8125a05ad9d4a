"""Dynamic focusing quantizer for Softmax outputs.

Paper: AIQViT, https://arxiv.org/abs/2502.04628, eq. 15.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from qpass.config import CODE_ZERO, SOFTMAX_PERCENTILES
from qpass.config.fields import choice
from qpass.config.options import CodeZero
from qpass.quantizers.base import GREATEST_BYTE, Criterion, Quantizer
from qpass.quantizers.search import WeightedRows, least_error

#: Candidates for b1, as fractions of b2. Candidates for b2 are quantiles of the data.
LOWER_SHARES = (0.0, 1 / 64, 1 / 32, 1 / 16, 3 / 32, 1 / 8, 3 / 16, 1 / 4)
#: b1 is at most this fraction of b2, so that the interval is never empty.
_WIDEST_SHARE = 0.95
_LEAST_B2 = 1e-6
#: The readings among which a fit chooses.
_CHOICES = {
    CodeZero.BEST: tuple(map(CodeZero, CODE_ZERO)),
    CodeZero.LEARNED: (CodeZero.AFFINE, CodeZero.ZERO),
}


class DynamicFocus(Quantizer):
    """All 2^k codes on [b1, b2]: q = clamp([(x - b1) / s], 0, L) with L = 2^k - 1, s = (b2 - b1) / L.

    The paper does not define the value of a code. Three readings, ours:

    - ``"affine"``: x̂ = b1 + s q.
    - ``"zero"``: the same, except that code 0 decodes to 0.
    - ``"snapped"``: b1 is rounded to a multiple n of s, so that the zero point is an integer. The
      codes n to n + L are those of a uniform quantizer with zero point 0, q = clamp([x / s], n, n + L),
      x̂ = s q, so an integer matmul takes them unchanged. n stays fixed and b1 = n s follows b2: a
      step of n would move every value below b1, most of a Softmax output, by s.

    b1 and b2 are parameters with closed-form straight-through gradients.

    Args:
        bits: Bit width, 2 to 8.
        code_zero: The reading, or ``"best"`` or ``"learned"`` to let ``fit`` choose (``CodeZero``).

    Raises:
        ConfigError: For another reading.
    """

    first_code: Tensor

    def __init__(self, bits: int, *, code_zero: str = CodeZero.BEST.value) -> None:
        super().__init__(bits)
        self.code_zero = CodeZero(choice(CodeZero, noun="reading")(code_zero, "code_zero"))
        self._readings = _CHOICES.get(self.code_zero, (self.code_zero,))
        self.b1 = nn.Parameter(torch.tensor(0.0), requires_grad=False)
        self.b2 = nn.Parameter(torch.tensor(1.0), requires_grad=False)
        self.register_buffer("first_code", torch.tensor(0))

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments that rebuild this quantizer, unfitted."""
        return {"bits": self.bits, "code_zero": self.code_zero.value}

    @property
    def steps(self) -> int:
        """Number of steps L between b1 and b2."""
        return int(2**self.bits) - 1

    @property
    def scale(self) -> Tensor:
        """Step size s between adjacent codes; one element."""
        if self.code_zero == CodeZero.SNAPPED:
            return self.b2.detach() / (self.first_code + self.steps)
        return (self.b2.detach() - self.b1.detach()) / self.steps

    @property
    def code_min(self) -> int:
        """Smallest code: n for ``"snapped"``, else 0."""
        return int(self.first_code)

    @property
    def offset(self) -> Tensor:
        """Offset added to s q: 0 for ``"snapped"``, else b1."""
        return torch.zeros_like(self.b1) if self.code_zero == CodeZero.SNAPPED else self.b1.detach()

    def set_interval(self, b1: float, b2: float) -> Self:
        """Sets b1 and b2, limited to 0 <= b1 < b2 <= 1 and to codes that fit in 8 bits."""
        b2 = min(max(b2, _LEAST_B2), 1.0)
        share = min(max(b1, 0.0) / b2, _WIDEST_SHARE)
        first = 0
        if self.code_zero == CodeZero.SNAPPED:
            first = min(round(self.steps * share / (1 - share)), GREATEST_BYTE - self.steps)
        with torch.no_grad():
            self.first_code.fill_(first)
            self.b1.fill_(b1)
            self.b2.fill_(b2)
        return self.project()

    def project(self) -> Self:
        """Projects b1 and b2 onto their valid range; see ``Quantizer.project``."""
        with torch.no_grad():
            self.b2.clamp_(min=_LEAST_B2, max=1.0)
            if self.code_zero == CodeZero.SNAPPED:
                self.b1.copy_(self.first_code * self.scale)
            else:
                self.b1.copy_(torch.minimum(self.b1.clamp(min=0.0), self.b2 * _WIDEST_SHARE))
        return self

    def fit(self, x: Tensor, weight: Tensor | None = None, criterion: Criterion | None = None) -> Self:
        """Searches a grid of intervals, and the readings to choose from; see ``Quantizer.fit``."""
        rows = WeightedRows.of_tensor(x, weight)
        uppers = sorted({rows.quantile(p).item() for p in SOFTMAX_PERCENTILES})
        grid = itertools.product(uppers, LOWER_SHARES, self._readings)
        candidates = ((share * upper, upper, reading) for upper, share, reading in grid)
        return self.set_candidate(least_error(candidates, self.set_candidate, self, rows, criterion))

    def starts(self, lower: Sequence[float]) -> list[tuple[float, float, CodeZero]]:
        """Returns b1, b2 and the reading, then those with b1 in ``lower`` and the readings to choose from.

        Args:
            lower: Values of b1.
        """
        b1, b2 = self.b1.item(), self.b2.item()
        return [(b1, b2, self.code_zero), *((value, b2, reading) for reading in self._readings for value in (b1, *lower))]

    def set_candidate(self, candidate: tuple[float, float, CodeZero]) -> Self:
        """Sets b1, b2 and the reading; see ``set_interval``."""
        b1, b2, self.code_zero = candidate
        return self.set_interval(b1, b2)

    def codes(self, x: Tensor) -> Tensor:
        """See ``Quantizer.codes``."""
        return self.position(x).round().clamp(self.code_min, self.code_max)

    def position(self, x: Tensor) -> Tensor:
        """Returns the unrounded, unclamped code of ``x``: (x - b1) / s, or x / s if snapped."""
        return (x if self.code_zero == CodeZero.SNAPPED else x - self.offset) / self.scale

    def decode(self, codes: Tensor) -> Tensor:
        """See ``Quantizer.decode``."""
        value = codes.to(self.b1.dtype) * self.scale
        if self.code_zero == CodeZero.SNAPPED:
            return value
        value = value + self.offset
        return torch.where(codes == 0, torch.zeros_like(value), value) if self.code_zero == CodeZero.ZERO else value

    def forward(self, x: Tensor) -> Tensor:
        """See ``Quantizer.forward``; b1 and b2 receive gradients too."""
        if not self.enabled or not (x.requires_grad or self.b1.requires_grad):
            return super().forward(x)
        result: Tensor = _DynamicFocusSTE.apply(x, self.b1, self.b2, self)  # type: ignore[no-untyped-call]
        return result


class _DynamicFocusSTE(torch.autograd.Function):
    """Closed-form gradients, several times faster than autograd through a dozen operators.

    With u = (x - b1) / s: inside [b1, b2], dx̂/dx = 1 and dx̂/ds = [u] - u; below, dx̂/db1 = 1; above,
    dx̂/db2 = 1; and ds = (db2 - db1) / L. For ``snapped``, with u = x / s and b1 = n s: inside the
    same; below, dx̂/ds = n; above, dx̂/ds = n + L; and ds = db2 / (n + L).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, b1: Tensor, b2: Tensor, quantizer: DynamicFocus) -> Tensor:  # type: ignore[override]
        position = quantizer.position(x)
        codes = position.round()
        below, above = x < b1, x > b2
        residual = (codes - position).masked_fill_(below | above, 0)
        if quantizer.code_zero == CodeZero.ZERO:
            residual.masked_fill_(codes <= 0, 0)  # code 0 decodes to 0 for any b1 and b2
        ctx.save_for_backward(residual, below, above)
        ctx.first, ctx.steps, ctx.reading = quantizer.code_min, quantizer.steps, quantizer.code_zero
        return quantizer.decode(codes.clamp_(quantizer.code_min, quantizer.code_max))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # type: ignore[override]
        residual, below, above = ctx.saved_tensors
        to_x = grad.masked_fill(below | above, 0)
        from_below, from_above = (grad * below).sum(), (grad * above).sum()
        to_scale = (grad * residual).sum()
        if ctx.reading == CodeZero.SNAPPED:
            last = ctx.first + ctx.steps
            return to_x, torch.zeros_like(from_below), (to_scale + ctx.first * from_below) / last + from_above, None
        if ctx.reading == CodeZero.ZERO:
            from_below = torch.zeros_like(from_below)
        return to_x, from_below - to_scale / ctx.steps, from_above + to_scale / ctx.steps, None
