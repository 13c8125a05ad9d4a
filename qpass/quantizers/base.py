"""What every quantizer is: fit, encode, decode, and a straight-through forward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

#: Scores a quantizer with candidate parameters; the least score wins.
Criterion = Callable[["Quantizer"], float]

#: Codes are stored in bytes: the greatest unsigned one, and the greatest signed one.
GREATEST_BYTE, GREATEST_INT8 = 255, 127
#: The least positive float32: below it lies only zero, whose logarithm has no gradient.
LEAST_FLOAT = 2.0**-149


class _RoundClampSTE(torch.autograd.Function):
    """Written out, since x + (round(x) - x).detach() is not round(x) in floats, and clamp's gradient at its ends varies."""

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
    """Rounds half to even and clamps; the gradient is 1 where nothing was clamped, else 0 (straight-through estimator)."""
    if not x.requires_grad:
        return x.round().clamp(least, greatest)  # type: ignore[arg-type]
    result: Tensor = _RoundClampSTE.apply(x, least, greatest)  # type: ignore[no-untyped-call]
    return result


def ste_mask(value: Tensor, rounded: Tensor, least: Tensor | float, greatest: Tensor | float) -> Tensor:
    """Returns ``value`` where the whole number ``rounded`` lies in [least, greatest], and 0 elsewhere; same shape.

    Between numbers by the gradient of a clamp: one pass in place of the several, and slower ones, of a comparison and a mask.
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
    """Returns x̂ with a gradient known in closed form: autograd through a dozen operators on attention maps takes far longer.

    Args:
        x: What is quantized.
        of: Gives x̂ and dx̂/dx for x, rounding left out of the latter.
    """
    result: Tensor = _SlopeSTE.apply(x, of)  # type: ignore[no-untyped-call]
    return result


class Quantizer(nn.Module, ABC):
    """Maps a float tensor to integer codes in [``code_min``, ``code_max``] and back.

    A subclass gives ``fit``, ``codes`` and ``decode``, keeps what it learned in buffers or parameters, and lists its
    constructor's arguments in ``config`` so that it can be saved. ``forward`` is the fake-quantized tensor.

    Attributes:
        enabled: Whether ``forward`` quantizes; False makes it the identity, as in the float reference of a graph.
        tabulated: Whether it is deployed as a table of its values (see ``LookUp``).
    """

    def __init__(self, bits: int, *, signed: bool = False) -> None:
        super().__init__()
        self.bits, self.signed = bits, signed
        self.enabled, self.tabulated = True, False

    @property
    def code_min(self) -> int:
        """The least code."""
        return -(2 ** (self.bits - 1)) if self.signed else 0

    @property
    def code_max(self) -> int:
        """The greatest code."""
        return self.code_min + 2**self.bits - 1

    @property
    def label(self) -> str:
        """What reports call it."""
        return type(self).__name__

    @property
    def code_dtype(self) -> torch.dtype:
        """The type that holds a code: int8 or uint8."""
        return torch.int8 if self.signed else torch.uint8

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The arguments that rebuild this quantizer, unfitted."""

    @abstractmethod
    def fit(self, x: Tensor, weight: Tensor | None = None, criterion: Criterion | None = None) -> Self:
        """Chooses the parameters with the least squared error on the data, or the least criterion, and returns itself.

        Args:
            x: Data. With an axis of its own scales: (channels, samples); else any shape.
            weight: How often each value of ``x`` occurs, same shape; None counts each once. A histogram is fitted
                by its bin centres and counts.
            criterion: Scores a candidate in place of the squared error, such as the error of a product that the
                tensor enters; only for quantizers with one scale.
        """

    @abstractmethod
    def codes(self, x: Tensor) -> Tensor:
        """Returns the codes of ``x`` as floats, with a straight-through gradient. Same shape."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Returns the float values that ``codes`` (integers, or the floats of ``codes``) stand for. Same shape."""

    def encode(self, x: Tensor) -> Tensor:
        """Returns the integer codes of ``x`` in ``code_dtype``. Same shape."""
        return self.codes(x).to(self.code_dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``decode(encode(x))``, differentiable."""
        return self.decode(self.codes(x)) if self.enabled else x

    def project(self) -> Self:
        """Moves learned parameters to the nearest that are allowed; call it after each step of an optimiser."""
        return self

    def output_shape(self, shape: Sequence[int]) -> Sequence[int]:
        """Returns the shape that ``forward`` gives for an input of this shape: the same."""
        return shape

    def levels(self) -> Tensor:
        """Returns every value that the quantizer can give, ascending by code; per-channel quantizers add a last dim."""
        assert isinstance(self.scale, Tensor)
        codes = torch.arange(self.code_min, self.code_max + 1, dtype=torch.float32, device=self.scale.device)
        return self.decode(codes)

    def integer_levels(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Returns a byte n for each code, a unit and an offset with x̂ = unit n + offset exactly; None where there are none."""
        return None

    def extra_repr(self) -> str:
        """Returns what ``print`` shows inside the parentheses."""
        return ", ".join(f"{key}={value}" for key, value in self.config.items() if key != "percentiles")
