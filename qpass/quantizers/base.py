"""Base class of all quantizers: fit, encode, decode, and a straight-through forward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

#: Scores a quantizer with candidate parameters; the lowest score wins.
Criterion = Callable[["Quantizer"], float]

#: Codes are stored in bytes: the largest unsigned and signed code.
GREATEST_BYTE, GREATEST_INT8 = 255, 127
#: The smallest positive float32. Only zero is smaller, and its logarithm has no gradient.
LEAST_FLOAT = 2.0**-149


class _RoundClampSTE(torch.autograd.Function):
    """Round and clamp with an explicit gradient.

    In floats, x + (round(x) - x).detach() is not round(x), and clamp's gradient at its bounds varies.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, least: Tensor | float, greatest: Tensor | float) -> Tensor:  # type: ignore[override]
        rounded = x.round()
        ctx.save_for_backward(rounded)
        ctx.bounds = (least, greatest)
        return rounded.clamp(least, greatest)  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (rounded,) = ctx.saved_tensors
        return ste_mask(grad, rounded, *ctx.bounds), None, None


def round_clamp_ste(x: Tensor, least: Tensor | float, greatest: Tensor | float) -> Tensor:
    """Rounds half to even and clamps, with a straight-through gradient: 1 where unclamped, else 0."""
    if not x.requires_grad:
        return x.round().clamp(least, greatest)  # type: ignore[arg-type]
    result: Tensor = _RoundClampSTE.apply(x, least, greatest)  # type: ignore[no-untyped-call]
    return result


def ste_mask(value: Tensor, rounded: Tensor, least: Tensor | float, greatest: Tensor | float) -> Tensor:
    """Returns ``value`` where the integer ``rounded`` lies in [least, greatest], else 0. Same shape.

    For scalar bounds it uses the gradient of a clamp: one pass instead of several slower ones.
    """
    if isinstance(least, Tensor) or isinstance(greatest, Tensor):
        return value * (rounded == rounded.clamp(least, greatest))  # type: ignore[arg-type]
    return torch.ops.aten.hardtanh_backward(value, rounded, least - 0.5, greatest + 0.5)


class _SlopeSTE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, of: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:  # type: ignore[override]
        value, slope = of(x)
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (slope,) = ctx.saved_tensors
        return grad * slope, None


def with_slope(x: Tensor, of: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
    """Returns x̂ with a closed-form gradient.

    Autograd through a dozen operators on attention maps is far slower.

    Args:
        x: Tensor to quantize.
        of: Returns x̂ and dx̂/dx for x; the latter ignores rounding.
    """
    result: Tensor = _SlopeSTE.apply(x, of)  # type: ignore[no-untyped-call]
    return result


class Quantizer(nn.Module, ABC):
    """Maps a float tensor to integer codes in [``code_min``, ``code_max``] and back.

    A subclass implements ``fit``, ``codes`` and ``decode``, keeps its fitted state in buffers or
    parameters, and lists its constructor arguments in ``config`` so that it can be saved. ``forward``
    returns the fake-quantized tensor.

    Attributes:
        enabled: Whether ``forward`` quantizes. False makes it the identity, as in a graph's float
            reference.
        tabulated: Whether it is deployed as a lookup table (see ``LookUp``).
    """

    def __init__(self, bits: int, *, signed: bool = False) -> None:
        super().__init__()
        self.bits, self.signed = bits, signed
        self.enabled, self.tabulated = True, False

    @property
    def code_min(self) -> int:
        """Smallest code."""
        return -(2 ** (self.bits - 1)) if self.signed else 0

    @property
    def code_max(self) -> int:
        """Largest code."""
        return self.code_min + 2**self.bits - 1

    @property
    def label(self) -> str:
        """Name shown in reports."""
        return type(self).__name__

    @property
    def code_dtype(self) -> torch.dtype:
        """Storage dtype of codes: int8 or uint8."""
        return torch.int8 if self.signed else torch.uint8

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Constructor arguments that rebuild this quantizer, unfitted."""

    @abstractmethod
    def fit(self, x: Tensor, weight: Tensor | None = None, criterion: Criterion | None = None) -> Self:
        """Chooses the parameters with the lowest squared error or criterion, and returns self.

        Args:
            x: Data. Shape (channels, samples) with one scale per channel; else any shape.
            weight: Count of each value of ``x``, same shape; None counts each value once. To fit a
                histogram, pass its bin centres and counts.
            criterion: Scores a candidate in place of the squared error, for example by the error of a
                matmul that reads the tensor. Only for quantizers with one scale.
        """

    @abstractmethod
    def codes(self, x: Tensor) -> Tensor:
        """Returns the codes of ``x`` as floats, with a straight-through gradient. Same shape."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Returns the float values of ``codes``, given as integers or as floats. Same shape."""

    def encode(self, x: Tensor) -> Tensor:
        """Returns the integer codes of ``x`` in ``code_dtype``. Same shape."""
        return self.codes(x).to(self.code_dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``decode(encode(x))``, differentiable."""
        return self.decode(self.codes(x)) if self.enabled else x

    def project(self) -> Self:
        """Projects learned parameters onto their valid range; call it after each optimizer step."""
        return self

    def settle(self) -> Self:
        """Rounds learned parameters to what is deployed; call it after the last optimizer step."""
        return self

    def output_shape(self, shape: Sequence[int]) -> Sequence[int]:
        """Returns the output shape of ``forward`` for this input shape: the same."""
        return shape

    def levels(self) -> Tensor:
        """Returns all output levels, ascending by code; per-channel quantizers add a last dim."""
        assert isinstance(self.scale, Tensor)
        codes = torch.arange(self.code_min, self.code_max + 1, dtype=torch.float32, device=self.scale.device)
        return self.decode(codes)

    def integer_levels(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Returns bytes n (one per code), unit and offset with x̂ = unit n + offset exactly, or None."""
        return None

    def extra_repr(self) -> str:
        """Returns the text that ``print`` shows inside the parentheses."""
        return ", ".join(f"{key}={value}" for key, value in self.config.items() if key != "percentiles")
