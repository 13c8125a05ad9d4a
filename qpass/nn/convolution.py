"""Convolutions with a quantized weight, in one, two or three dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qpass.nn.layers import QuantizedLayer
from qpass.quantizers import Quantizer, Uniform, WeightCodebook

#: Significant bits of a bias in steps: so many that the same steps follow from its rounded float32.
_BIAS_BITS = 22
_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class QuantizedConv(QuantizedLayer):
    """A convolution with zero padding, the same at both ends of a dim.

    x (B, C, S1, ...), W (out, C / groups, k1, ...), y (B, out, O1, ...).

    Args:
        weight: Float weight.
        bias: (out,) or None.
        quantizer: Weight quantizer.
        groups: Channel groups. With more than one, ``rows`` times the weight is not the convolution:
            see ``group``.
        stride: Steps of the window, one per spatial dim; None for windows that tile the input.
        padding: Zeros at each end, one number per spatial dim; None for none.
        dilation: Distances within a window, one per spatial dim; None for 1.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        quantizer: Quantizer | None,
        *,
        groups: int = 1,
        stride: Sequence[int] | None = None,
        padding: Sequence[int] | None = None,
        dilation: Sequence[int] | None = None,
    ) -> None:
        super().__init__(weight, bias, quantizer)
        self.groups = groups
        self._stride, self._padding, self._dilation = stride, padding, dilation

    @property
    def windows(self) -> dict[str, Any]:
        """Arguments of the constructor beside the tensors, without those that are None."""
        given = {"stride": self._stride, "padding": self._padding, "dilation": self._dilation}
        return {"groups": self.groups, **{name: list(numbers) for name, numbers in given.items() if numbers is not None}}

    @property
    def sides(self) -> tuple[int, ...]:
        """Sizes of the window."""
        return tuple(self.weight_shape[2:])

    @property
    def stride(self) -> tuple[int, ...]:
        """Steps of the window."""
        return self.sides if self._stride is None else tuple(self._stride)

    @property
    def padding(self) -> tuple[int, ...]:
        """Zeros at each end of each spatial dim."""
        return (0,) * len(self.sides) if self._padding is None else tuple(self._padding)

    @property
    def dilation(self) -> tuple[int, ...]:
        """Distances between neighbours in a window."""
        return (1,) * len(self.sides) if self._dilation is None else tuple(self._dilation)

    @property
    def tiles(self) -> bool:
        """Whether the windows tile an input of fitting size, so that the layer is a Linear over patches."""
        apart = any(distance > 1 and side > 1 for distance, side in zip(self.dilation, self.sides, strict=True))
        return self.stride == self.sides and not any(self.padding) and not apart

    def output_shape(self, shape: Sequence[int]) -> Sequence[int]:
        """See ``QuantizedLayer.output_shape``."""
        counts = [
            (size + 2 * zeros - span) // step + 1
            for size, zeros, span, step in zip(shape[2:], self.padding, self._spans, self.stride, strict=True)
        ]
        return (shape[0], self.weight_shape[0], *counts)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """See ``QuantizedLayer.product``."""
        convolve = _CONVOLVE[len(self.sides)]
        return convolve(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def rows(self, x: Tensor) -> Tensor:
        """See ``QuantizedLayer.rows``."""
        ends = [zeros for both in reversed(self.padding) for zeros in (both, both)]
        windows, dims = F.pad(x, ends) if any(ends) else x, len(self.sides)
        for dim, (span, step, distance) in enumerate(zip(self._spans, self.stride, self.dilation, strict=True), 2):
            windows = windows.unfold(dim, span, step)[..., ::distance]
        order = (0, *range(2, 2 + dims), 1, *range(2 + dims, 2 + 2 * dims))
        return windows.permute(order).reshape(-1, x.shape[1] * math.prod(self.sides))

    def group(self, part: slice) -> QuantizedConv:
        """Returns a copy of one group, with the output channels ``part``, as a convolution of its own."""
        assert self.weight is not None, "a frozen layer has no float weight"
        bias = None if self.bias is None else self.bias[part]
        quantizer = self.quantizer
        assert quantizer is None or isinstance(quantizer, Uniform | WeightCodebook), "weights have no other quantizer"
        quantizer = None if quantizer is None else quantizer.rows(part)
        windows = {**self.windows, "groups": 1}
        return QuantizedConv(self.weight[part], bias, quantizer, **windows).requires_grad_(False)

    def put_group(self, part: slice, group: QuantizedConv) -> None:
        """Takes weight, bias, and levels and scales of a codebook over from a copy that ``group`` returned."""
        with torch.no_grad():
            self.effective_weight()[part] = group.effective_weight()
            if self.bias is not None and group.bias is not None:
                self.bias[part] = group.bias
            if isinstance(self.quantizer, WeightCodebook) and isinstance(group.quantizer, WeightCodebook):
                self.quantizer.scale[part], self.quantizer.table[part] = group.quantizer.scale, group.quantizer.table

    def round_bias(self, scale: Tensor) -> bool:
        """Rounds the bias to ``bias_steps``, if it can be; returns whether that changed it.

        Args:
            scale: Scale of the input.
        """
        steps = self.bias_steps(scale)
        if self.bias is None or steps is None:
            return False
        rounded = steps.float() * self._sum_scale(scale)
        changed = not torch.equal(rounded, self.bias)
        self.bias = nn.Parameter(rounded, requires_grad=False)
        return changed

    def bias_steps(self, scale: Tensor) -> Tensor | None:
        """Returns the bias as a number of steps of the integer sums, in float64: (out,).

        A float32 holds the steps exactly. None if there is no bias, or if 31 bits do not hold it.

        Args:
            scale: Scale of the input.
        """
        if self.bias is None or self.quantizer is None:
            return None
        steps = (self.bias.detach().double() / self._sum_scale(scale).double()).round()
        unit = torch.ldexp(torch.ones_like(steps), (torch.frexp(steps)[1] - _BIAS_BITS).clamp(min=0))
        return (steps / unit).round() * unit if bool((steps.abs() < 2**30).all()) else None

    def _sum_scale(self, scale: Tensor) -> Tensor:
        """Returns the value of one step of an integer sum: (out,)."""
        weight_scale: Tensor = self.quantizer.scale.detach()  # type: ignore[union-attr, assignment, operator]
        return scale.detach().reshape(1) * weight_scale.reshape(-1)

    @property
    def _spans(self) -> list[int]:
        """Sizes of the input that a window covers."""
        return [distance * (side - 1) + 1 for distance, side in zip(self.dilation, self.sides, strict=True)]
