"""Uniform quantizer with an integer zero point.

Paper: https://arxiv.org/abs/1712.05877, section 2.1. The gradient of the scale is LSQ's,
https://arxiv.org/abs/1902.08153, eq. 3.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from qpass.config import ACTIVATION_PERCENTILES
from qpass.quantizers.base import GREATEST_BYTE, Criterion, Quantizer, round_clamp_ste, ste_mask
from qpass.quantizers.search import WeightedRows

#: A row whose range is below this fraction of the median range counts as constant (a dead channel).
DEAD_RANGE = 1e-5
#: Smaller scales count as zero (dead units shrunk by weight decay). The product of two scales of
#: this size is the smallest normal float32; below that, runtimes differ.
_LEAST_FITTED_SCALE = 2.0**-63
#: Lower bound of a learned scale.
_LEAST_SCALE = 1e-8


class Uniform(Quantizer):
    """q = clamp([x / s] + z, code_min, code_max), x̂ = s (q - z), z an integer.

    Args:
        bits: Bit width, 2 to 8.
        symmetric: Zero point 0, signed codes.
        signed: Store signed codes; implied by ``symmetric``.
        axis: Dimension of the input with one scale per index, or None for a single scale.
        percentiles: Clip ranges tried by ``fit``, each in (0.5, 1].
        free_zero_point: Allow ranges that exclude zero, whose zero point lies outside the codes.
            Exact for channels far from zero, but no ONNX tensor can hold such a zero point: use it
            only for scales that a LayerNorm fold absorbs.
        first_code: Smallest code if unsigned. It shifts the stored codes, not the values.
    """

    zero_point: Tensor

    def __init__(
        self,
        bits: int,
        *,
        symmetric: bool = False,
        signed: bool = False,
        axis: int | None = None,
        percentiles: tuple[float, ...] = (*ACTIVATION_PERCENTILES, 1.0),
        free_zero_point: bool = False,
        first_code: int = 0,
    ) -> None:
        super().__init__(bits, signed=signed or symmetric)
        self.symmetric, self.axis, self.free_zero_point = symmetric, axis, free_zero_point
        self.first_code = first_code
        self.percentiles = tuple(percentiles)
        self.scale = nn.Parameter(torch.tensor(1.0), requires_grad=False)
        self.register_buffer("zero_point", torch.tensor(0.0))

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments that rebuild this quantizer, unfitted."""
        return {
            "bits": self.bits,
            "symmetric": self.symmetric,
            "signed": self.signed,
            "axis": self.axis,
            "percentiles": self.percentiles,
            "free_zero_point": self.free_zero_point,
            "first_code": self.first_code,
        }

    @property
    def code_min(self) -> int:
        """Smallest code."""
        return super().code_min if self.signed else self.first_code

    def shift_codes(self, zero_point: int) -> Self:
        """Shifts the codes to this zero point, as far as 8 bits allow. Unsigned, one scale only."""
        assert self.axis is None, "one scale"
        assert not self.signed, "unsigned codes"
        moved = int(zero_point - self.zero_point.item())
        moved = min(max(moved, -self.code_min), GREATEST_BYTE - self.code_max)
        self.first_code += moved
        self.zero_point = self.zero_point + moved
        return self

    def set_parameters(self, scale: Tensor, zero_point: Tensor) -> Self:
        """Sets scale and zero point: one element each, or one per index of ``axis``."""
        device = self.scale.device
        self.scale = nn.Parameter(scale.detach().to(device, torch.float32), requires_grad=False)
        self.zero_point = zero_point.detach().to(device, torch.float32)
        return self

    def layer_wise(self, scale: Tensor, zero_point: Tensor) -> Uniform:
        """Returns a quantizer like this one with a single scale and zero point."""
        return Uniform(self.bits, percentiles=self.percentiles).set_parameters(scale, zero_point)

    def rows(self, part: slice) -> Uniform:
        """Returns a quantizer of some of the channels of axis 0."""
        assert self.axis == 0, "a scale for each row"
        return Uniform(**self.config).set_parameters(self.scale[part], self.zero_point[part])

    def project(self) -> Self:
        """See ``Quantizer.project``."""
        with torch.no_grad():
            self.scale.clamp_(min=_LEAST_SCALE)
        return self

    def fit(self, x: Tensor, weight: Tensor | None = None, criterion: Criterion | None = None) -> Self:
        """Searches over the percentile clip ranges; see ``Quantizer.fit``."""
        x = x.detach().reshape(1, -1) if self.axis is None else x.detach()
        if weight is not None:
            weight = weight.reshape(x.shape)
        rows = WeightedRows(x, weight)
        best = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        scale, zero_point = torch.ones_like(best), torch.zeros_like(best)
        for p in self.percentiles:
            candidate = self._from_range(rows.quantile(1 - p), rows.quantile(p))
            if criterion is not None and self.axis is None:
                error = torch.full_like(best, criterion(self.set_parameters(candidate[0][0], candidate[1][0])))
            else:
                error = rows.squared_error(self._fake_quantize_rows(rows.x, *candidate))
            better = error < best
            best = torch.where(better, error, best)
            scale = torch.where(better, candidate[0], scale)
            zero_point = torch.where(better, candidate[1], zero_point)
        return self.set_parameters(*((scale[0], zero_point[0]) if self.axis is None else (scale, zero_point)))

    def _from_range(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Returns scale and zero point of clip ranges, as float64 exact in float32: (rows,) each."""
        steps = 2**self.bits - 1
        if self.symmetric:
            scale = torch.maximum(low.abs(), high.abs()) / (steps // 2)
            return _alive(scale).float().double(), torch.zeros_like(scale)
        if not self.free_zero_point:
            low, high = low.clamp(max=0), high.clamp(min=0)
        width = high - low
        # A constant row has no range: its magnitude as the scale represents it exactly.
        dead = width <= DEAD_RANGE * width.median()
        scale = _alive(torch.where(dead, torch.maximum(low.abs(), high.abs()), width / steps)).float().double()
        zero_point = self.code_min - (low / scale).round()
        return scale, torch.where(dead & (low < 0), zero_point.clamp(max=self.code_max), zero_point)

    def _fake_quantize_rows(self, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        scale, zero_point = scale[:, None], zero_point[:, None]
        codes = ((x / scale).round() + zero_point).clamp(self.code_min, self.code_max)
        return (codes - zero_point) * scale

    def broadcast_parameters(self, dims: int) -> tuple[Tensor, Tensor]:
        """Returns scale and zero point, shaped to broadcast along ``axis`` of ``dims`` dims."""
        if self.axis is None:
            return self.scale, self.zero_point
        shape = [1] * dims
        shape[self.axis] = -1
        return self.scale.view(shape), self.zero_point.view(shape)

    def codes(self, x: Tensor) -> Tensor:
        """See ``Quantizer.codes``."""
        scale, zero_point = self.broadcast_parameters(x.dim())
        # Divide as ONNX's QuantizeLinear does: multiplying by 1/s would round some ties the other way.
        return round_clamp_ste(x / scale, self.code_min - zero_point, self.code_max - zero_point) + zero_point

    def forward(self, x: Tensor) -> Tensor:
        """See ``Quantizer.forward``. Skipping the zero point is bit-exact, because codes are integers."""
        if not self.enabled:
            return x
        scale, zero_point = self.broadcast_parameters(x.dim())
        result: Tensor = _FakeQuantizeSTE.apply(  # type: ignore[no-untyped-call]
            x, scale, self.code_min - zero_point, self.code_max - zero_point
        )
        return result

    def decode(self, codes: Tensor) -> Tensor:
        """See ``Quantizer.decode``."""
        scale, zero_point = self.broadcast_parameters(codes.dim())
        return (codes.to(scale.dtype) - zero_point) * scale

    def levels(self) -> Tensor:
        """See ``Quantizer.levels``; shape (codes, channels) per channel."""
        codes = torch.arange(self.code_min, self.code_max + 1, device=self.scale.device, dtype=torch.float32)
        return (codes[:, None] - self.zero_point) * self.scale if self.axis is not None else self.decode(codes)


class _FakeQuantizeSTE(torch.autograd.Function):
    """decode(codes(x)) in one step.

    Learning spends much of its time here, and autograd would keep every intermediate.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, least: Tensor, greatest: Tensor) -> Tensor:  # type: ignore[override]
        rounded = (x / scale).round_()
        # Scalar bounds are several times faster than tensor bounds.
        ctx.bounds = (least.item(), greatest.item()) if least.numel() == 1 else (least, greatest)
        clamped = rounded.clamp(*ctx.bounds)
        residual = None
        if ctx.needs_input_grad[1]:
            residual = torch.where(rounded == clamped, clamped - x / scale, clamped)
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            ctx.save_for_backward(rounded, residual, scale)
        return clamped.mul_(scale) if residual is None else clamped * scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:  # type: ignore[override]
        rounded, residual, scale = ctx.saved_tensors
        to_scale = None if residual is None else (grad * residual).sum_to_size(scale.shape)
        return ste_mask(grad, rounded, *ctx.bounds), to_scale, None, None


def _alive(scale: Tensor) -> Tensor:
    """Replaces (near-)zero scales by the median of the others, or by 1."""
    live = scale > _LEAST_FITTED_SCALE
    return torch.where(live, scale, scale[live].median() if live.any() else torch.ones_like(scale[0]))
