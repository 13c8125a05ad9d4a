"""Ways of making tokens: patch embeddings, positions added to them, and a class token in front."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


class _Tokens(nn.Module):
    """A convolution whose pixels become tokens."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).flatten(2).transpose(1, 2)


class _Unfolded(nn.Module):
    """Patches cut by reshapes, and a Linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(48, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(x.shape[0], 3, 3, 4, 3, 4)
        return self.layer(x.permute(0, 2, 4, 3, 5, 1).reshape(x.shape[0], 9, 48))


class _Points(nn.Module):
    """A convolution of kernel 1 over a list of patches."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Conv1d(48, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(nn.functional.unfold(x, 4, stride=4)).transpose(1, 2)


#: Images (batch, 3, 12, 12) -> (batch, 9, width).
EMBEDDINGS: dict[str, Callable[[int], nn.Module]] = {
    "conv": lambda width: _Tokens(nn.Conv2d(3, width, 4, 4)),
    "valid": lambda width: _Tokens(nn.Conv2d(3, width, 4, 4, padding="valid")),
    "no bias": lambda width: _Tokens(nn.Conv2d(3, width, kernel_size=(4, 4), stride=(4, 4), bias=False)),
    "unfolded": _Unfolded,
    "points": _Points,
}


class _Learned(nn.Module):
    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, tokens, width))

    def forward(self, t: Tensor) -> Tensor:
        return t + self.positions


class _LookedUp(nn.Module):
    """Looked up by a buffer of numbers that is not persistent."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(tokens, width)
        self.register_buffer("ids", torch.arange(tokens)[None], persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        t += self.table(self.ids[:, : t.shape[1]])
        return t


class _Waves(nn.Module):
    """Sines and cosines that the forward writes into a buffer."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()

    def forward(self, t: Tensor) -> Tensor:
        positions = torch.arange(t.shape[1], dtype=torch.float32)[:, None]
        rates = torch.exp(torch.arange(0, t.shape[2], 2) * (-math.log(100.0) / t.shape[2]))
        waves = torch.zeros(t.shape[1], t.shape[2])
        waves[:, 0::2] = torch.sin(positions * rates)
        waves[:, 1::2] = torch.cos(positions * rates)
        return t + waves


class _Normalized(nn.Module):
    """Centred by a buffer that is not persistent, as image processors in a forward do."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.rand(width), persistent=False)
        self.register_buffer("spread", torch.rand(width) + 0.5)

    def forward(self, t: Tensor) -> Tensor:
        return t.sub_(self.centre).div_(self.spread)


#: Tokens (batch, tokens, width) -> the same.
ADDED: dict[str, Callable[[int, int], nn.Module]] = {
    "none": lambda tokens, width: nn.Identity(),
    "learned": _Learned,
    "looked up": _LookedUp,
    "waves": _Waves,
    "normalized": _Normalized,
}


def _written(make: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def join(t: Tensor, cls: Tensor) -> Tensor:
        out = make(t.shape[0], t.shape[1] + 1, t.shape[2])
        out[:, 0] = cls
        out[:, 1:] = t
        return out

    return join


def _padded(t: Tensor, cls: Tensor) -> Tensor:
    out = nn.functional.pad(t, (0, 0, 1, 0))
    out[:, 0] += cls
    return out


#: Tokens and a class token (width,) -> both.
CLASS_TOKENS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "none": lambda t, cls: t,
    "cat": lambda t, cls: torch.cat([cls.expand(t.shape[0], 1, -1), t], 1),
    "zeros": _written(torch.zeros),
    "empty": _written(torch.empty),
    "padded": _padded,
}
