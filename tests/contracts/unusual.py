"""A small attention network whose forwards are written as people write them, for tests of unusual models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Net(nn.Module):
    """Images (batch, 3, 32, 32) -> (batch, 5): 16 patches of width 32, attention with 4 heads, mean of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Conv2d(3, 32, 8, 8)
        self.n = nn.LayerNorm(32)
        self.qkv = nn.Linear(32, 96)
        self.h = nn.Linear(32, 5)

    def tok(self, x: Tensor) -> Tensor:
        return self.p(x).flatten(2).transpose(1, 2)

    def att(self, t: Tensor, **options: Any) -> Tensor:
        q, k, v = (y.unflatten(-1, (4, 8)).transpose(1, 2) for y in self.qkv(self.n(t)).chunk(3, -1))
        return F.scaled_dot_product_attention(q, k, v, **options).transpose(1, 2).flatten(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.h(self.att(self.tok(x)).mean(1))


def net(forward: Callable[..., Any] | None = None, *, init: Callable[[Net], None] | None = None, seed: int = 0) -> Net:
    """Returns the network with another forward, ``forward(self, ...)``, and with what ``init(self)`` adds to it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        kind = Net if forward is None else type("Net", (Net,), {"forward": forward})
        model = kind()
        if init is not None:
            init(model)
    return model.eval()


def images(rows: int, seed: int = 0) -> Tensor:
    """Returns (rows, 3, 32, 32)."""
    return torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


class Tokens(Net):
    """A class token in front of the patches, and blocks that are numbered."""

    def __init__(self, write: str) -> None:
        super().__init__()
        self.write, self.cls = write, nn.Parameter(torch.randn(32))
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        patches = self.tok(x)
        if self.write in ("cat", "+="):
            t = torch.cat([self.cls.expand(x.shape[0], 1, 32), patches], 1)
        else:
            t = (torch.zeros if self.write == "zeros" else torch.empty)(x.shape[0], 17, 32)
            t[:, 0] = self.cls
            t[:, 1:] = patches
        for block in self.blocks:
            if self.write == "+=":
                t += block(t) - t
            else:
                t = block(t)
        return self.h(self.n(t)[:, 0])


def tokens(write: str) -> nn.Module:
    """Returns a network whose tokens are written into ``zeros`` or ``empty`` memory, or joined by ``cat``; ``+=`` adds in place."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Tokens(write).eval()
