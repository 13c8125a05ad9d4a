"""The dynamic focusing quantizer for Softmax outputs. Paper: AIQViT, https://arxiv.org/abs/2502.04628, eq. 15."""

from __future__ import annotations

import itertools
from typing import Any, Self

import torch
from torch import Tensor, nn

from qpass.config import CODE_ZERO, SOFTMAX_PERCENTILES
from qpass.quantizers.base import GREATEST_BYTE, Criterion, Quantizer
from qpass.quantizers.search import WeightedRows, least_error

#: Candidates for b1, as shares of b2; those for b2 are quantiles of the data.
LOWER_SHARES = (0.0, 1 / 64, 1 / 32, 1 / 16, 3 / 32, 1 / 8, 3 / 16, 1 / 4)
#: b1 is at most this share of b2: an interval keeps some width.
_WIDEST_SHARE = 0.95
_LEAST_B2 = 1e-6


class DynamicFocus(Quantizer):
    """All 2^k codes on [b1, b2]: with L = 2^k - 1 and s = (b2 - b1) / L, q = clamp([(x - b1) / s], 0, L).

    The paper leaves open what a code stands for; three readings, ours:

    - ``"affine"``: x̂ = b1 + s q.
    - ``"zero"``: the same, save that code 0 stands for 0.
    - ``"snapped"``: b1 is rounded to a multiple n of s, so that the zero point is an integer; the codes n to n + L are
      those of a uniform quantizer with zero point 0, q = clamp([x / s], n, n + L), x̂ = s q, and an integer matmul takes
      them as they are. n stays as it was set, and b1 = n s follows b2: one step of n moves every value below b1, most
      of a Softmax output, by s.

    b1 and b2 are parameters; the gradients are the closed forms of the straight-through estimator.

    Args:
        bits: Width of the codes, 2 to 8.
        code_zero: The reading, or ``"best"`` to let ``fit`` choose.
    """

    first_code: Tensor

    def __init__(self, bits: int, *, code_zero: str = "best") -> None:
        super().__init__(bits)
        self.code_zero = code_zero
        self.b1 = nn.Parameter(torch.tensor(0.0), requires_grad=False)
        self.b2 = nn.Parameter(torch.tensor(1.0), requires_grad=False)
        self.register_buffer("first_code", torch.tensor(0))

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that rebuild this quantizer, unfitted."""
        return {"bits": self.bits, "code_zero": self.code_zero}

    @property
    def steps(self) -> int:
        """L, the number of steps between b1 and b2."""
        return int(2**self.bits) - 1

    @property
    def scale(self) -> Tensor:
        """The distance s between two codes; one element."""
        if self.code_zero == "snapped":
            return self.b2.detach() / (self.first_code + self.steps)
        return (self.b2.detach() - self.b1.detach()) / self.steps

    @property
    def code_min(self) -> int:
        """The least code: n where the reading is ``"snapped"``, else 0."""
        return int(self.first_code)

    @property
    def offset(self) -> Tensor:
        """What is added to s q: b1, or 0 where the reading is ``"snapped"``."""
        return torch.zeros_like(self.b1) if self.code_zero == "snapped" else self.b1.detach()

    def set_interval(self, b1: float, b2: float) -> Self:
        """Sets b1 and b2, kept inside 0 <= b1 < b2 <= 1 and where 8-bit tensors can hold the codes."""
        b2 = min(max(b2, _LEAST_B2), 1.0)
        share = min(max(b1, 0.0) / b2, _WIDEST_SHARE)
        first = 0
        if self.code_zero == "snapped":
            first = min(round(self.steps * share / (1 - share)), GREATEST_BYTE - self.steps)
        with torch.no_grad():
            self.first_code.fill_(first)
            self.b1.fill_(b1)
            self.b2.fill_(b2)
        return self.project()

    def project(self) -> Self:
        """Moves b1 and b2 to the nearest pair that is allowed; see ``Quantizer.project``."""
        with torch.no_grad():
            self.b2.clamp_(min=_LEAST_B2, max=1.0)
            if self.code_zero == "snapped":
                self.b1.copy_(self.first_code * self.scale)
            else:
                self.b1.copy_(torch.minimum(self.b1.clamp(min=0.0), self.b2 * _WIDEST_SHARE))
        return self

    def fit(self, x: Tensor, weight: Tensor | None = None, criterion: Criterion | None = None) -> Self:
        """Searches a grid of intervals, and of readings where none is given; see ``Quantizer.fit``."""
        rows = WeightedRows.of_tensor(x, weight)
        readings = CODE_ZERO if self.code_zero == "best" else (self.code_zero,)
        uppers = sorted({rows.quantile(p).item() for p in SOFTMAX_PERCENTILES})
        best = least_error(itertools.product(uppers, LOWER_SHARES, readings), self._set_share, self, rows, criterion)
        return self._set_share(best)

    def _set_share(self, candidate: tuple[float, float, str]) -> Self:
        upper, share, self.code_zero = candidate
        return self.set_interval(share * upper, upper)

    def codes(self, x: Tensor) -> Tensor:
        """See ``Quantizer.codes``."""
        return self.position(x).round().clamp(self.code_min, self.code_max)

    def position(self, x: Tensor) -> Tensor:
        """Returns where ``x`` lies in units of codes, before rounding and clamping: (x - b1) / s, or x / s if snapped."""
        return (x if self.code_zero == "snapped" else x - self.offset) / self.scale

    def decode(self, codes: Tensor) -> Tensor:
        """See ``Quantizer.decode``."""
        value = codes.to(self.b1.dtype) * self.scale
        if self.code_zero == "snapped":
            return value
        value = value + self.offset
        return torch.where(codes == 0, torch.zeros_like(value), value) if self.code_zero == "zero" else value

    def forward(self, x: Tensor) -> Tensor:
        """See ``Quantizer.forward``; b1 and b2 have gradients too."""
        if not self.enabled or not (x.requires_grad or self.b1.requires_grad):
            return super().forward(x)
        result: Tensor = _DynamicFocusSTE.apply(x, self.b1, self.b2, self)  # type: ignore[no-untyped-call]
        return result


class _DynamicFocusSTE(torch.autograd.Function):
    """The closed forms, since autograd through a dozen operators on attention maps takes several times longer.

    With u = (x - b1) / s: inside, dx̂/dx = 1 and dx̂/ds = [u] - u; below, dx̂/db1 = 1; above, dx̂/db2 = 1; and
    ds = (db2 - db1) / L. ``snapped``, with u = x / s and b1 = n s: inside the same, below dx̂/ds = n, above dx̂/ds = n + L, and
    ds = db2 / (n + L).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, b1: Tensor, b2: Tensor, quantizer: DynamicFocus) -> Tensor:  # type: ignore[override]
        position = quantizer.position(x)
        codes = position.round()
        below, above = x < b1, x > b2
        residual = (codes - position).masked_fill_(below | above, 0)
        if quantizer.code_zero == "zero":
            residual.masked_fill_(codes <= 0, 0)  # 0 whatever b1 and b2 are
        ctx.save_for_backward(residual, below, above)
        ctx.first, ctx.steps, ctx.reading = quantizer.code_min, quantizer.steps, quantizer.code_zero
        return quantizer.decode(codes.clamp_(quantizer.code_min, quantizer.code_max))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # type: ignore[override]
        residual, below, above = ctx.saved_tensors
        to_x = grad.masked_fill(below | above, 0)
        from_below, from_above = (grad * below).sum(), (grad * above).sum()
        to_scale = (grad * residual).sum()
        if ctx.reading == "snapped":
            last = ctx.first + ctx.steps
            return to_x, torch.zeros_like(from_below), (to_scale + ctx.first * from_below) / last + from_above, None
        if ctx.reading == "zero":
            from_below = torch.zeros_like(from_below)
        return to_x, from_below - to_scale / ctx.steps, from_above + to_scale / ctx.steps, None
