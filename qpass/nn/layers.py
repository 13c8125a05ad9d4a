"""Layers with a quantized weight: float and learnable until frozen, integer codes afterwards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qpass.quantizers import Quantizer


class QuantizedLayer(nn.Module, ABC):
    """A layer y = f(x, Q(W), bias). A graph node before it quantizes its input, if at all.

    Args:
        weight: Float weight, output channels first.
        bias: (output channels,) or None.
        quantizer: Weight quantizer, one scale per output channel; None keeps the weight in float.
    """

    codes: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, quantizer: Quantizer | None) -> None:
        super().__init__()
        self.weight: nn.Parameter | None = nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format))
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.quantizer = quantizer
        self.register_buffer("codes", None)

    @property
    def frozen(self) -> bool:
        """Whether the weight is stored as integer codes."""
        return self.codes is not None

    @property
    def weight_shape(self) -> torch.Size:
        """Shape of the weight, output channels first."""
        weight = self.codes if self.codes is not None else self.weight
        assert weight is not None
        return weight.shape

    def effective_weight(self) -> Tensor:
        """Returns the float weight before rounding; subclasses add their compensation here."""
        assert self.weight is not None, "a frozen layer has no float weight"
        return self.weight

    def quantized_weight(self) -> Tensor:
        """Returns Q(W), the weight that the layer multiplies by."""
        if self.quantizer is None:
            return self.effective_weight()
        if self.codes is not None:
            return self.quantizer.decode(self.codes)
        quantized: Tensor = self.quantizer(self.effective_weight())
        return quantized

    def freeze(self) -> bool:
        """Replaces the float weight by its codes. Returns whether anything was replaced."""
        if self.frozen or self.quantizer is None:
            return False
        with torch.no_grad():
            self.codes = self.quantizer.encode(self.effective_weight())
        self.weight = None
        return True

    @abstractmethod
    def output_shape(self, shape: Sequence[int]) -> Sequence[int]:
        """Returns the output shape of ``forward`` for this input shape; sizes may be symbols."""

    @abstractmethod
    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Returns f(x, weight, bias)."""

    @abstractmethod
    def rows(self, x: Tensor) -> Tensor:
        """Returns the inputs that the weight multiplies, one row per token or window: (rows, in)."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns f(x, Q(W), bias)."""
        return self.product(x, self.quantized_weight(), self.bias)


class QuantizedLinear(QuantizedLayer):
    """y = x Q(W)ᵀ + bias; x (..., in), W (out, in), y (..., out)."""

    def output_shape(self, shape: Sequence[int]) -> Sequence[int]:
        """See ``QuantizedLayer.output_shape``."""
        return (*shape[:-1], self.weight_shape[0])

    def rescale_input(self, ratio: Tensor, shift: Tensor) -> None:
        """Absorbs a change of input from x to x' = (x + shift) / ratio; the output is unchanged.

        W' = W diag(ratio), bias' = bias - W shift. Refits the weight quantizer.

        Args:
            ratio: (in,), positive, in float64.
            shift: (in,), in float64.
        """
        assert self.weight is not None, "a frozen layer has no float weight"
        with torch.no_grad():
            weight = self.weight.double()
            moved = -(weight @ shift) if self.bias is None else self.bias.double() - weight @ shift
            self.bias = nn.Parameter(moved.float(), requires_grad=False)
            self.weight.copy_(weight * ratio)
        if self.quantizer is not None:
            self.quantizer.fit(self.weight)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """See ``QuantizedLayer.product``."""
        return F.linear(x, weight, bias)

    def rows(self, x: Tensor) -> Tensor:
        """See ``QuantizedLayer.rows``."""
        return x.reshape(-1, x.shape[-1])


class ResidualFactor(QuantizedLinear):
    """A Linear in the residual branch that compensates for the rounding of another Linear's weight.

    Returns zeros while its quantizer is disabled.
    """

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        assert self.quantizer is not None, "a residual factor is made for integers"
        y = super().forward(x)
        return y if self.quantizer.enabled else torch.zeros_like(y)
