"""A matcher of keypoints in two images like LightGlue (https://arxiv.org/abs/2306.13643).

Weights are random and seeded: what is measured with it is memory and time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, HEADS, LAYERS = 256, 4, 9


class SelfBlock(nn.Module):
    """Attention among the points of one image, with positions that turn queries and keys."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out, self.mlp = nn.Linear(width, 3 * width), nn.Linear(width, width), mlp(width)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """x: (B, N, C), cosine and sine: (B, 1, N, C / heads)."""
        q, k, v = (split_heads(y, self.heads) for y in self.qkv(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(turned(q, cosine, sine), turned(k, cosine, sine), v)
        return x + self.mlp(torch.cat([x, self.out(join_heads(y))], -1))


class CrossBlock(nn.Module):
    """Attention between the points of two images, with one projection for queries and keys."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qk, self.v, self.out, self.mlp = *(nn.Linear(width, width) for _ in range(3)), mlp(width)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x: (B, N, C), y: (B, M, C)."""
        (qx, vx), (qy, vy) = ([split_heads(layer(side), self.heads) for layer in (self.qk, self.v)] for side in (x, y))
        to_x, to_y = F.scaled_dot_product_attention(qx, qy, vy), F.scaled_dot_product_attention(qy, qx, vx)
        x = x + self.mlp(torch.cat([x, self.out(join_heads(to_x))], -1))
        return x, y + self.mlp(torch.cat([y, self.out(join_heads(to_y))], -1))


class LightGlue(nn.Module):
    """11 M parameters at the default sizes.

    Args:
        width: Channels of a point's descriptor.
        heads: Of attention.
        layers: Pairs of a self-attention and a cross-attention.
    """

    def __init__(self, width: int = WIDTH, heads: int = HEADS, layers: int = LAYERS) -> None:
        super().__init__()
        self.frequencies = nn.Linear(2, width // heads // 2, bias=False)
        self.self_attention = nn.ModuleList(SelfBlock(width, heads) for _ in range(layers))
        self.cross_attention = nn.ModuleList(CrossBlock(width, heads) for _ in range(layers))
        self.project, self.matchability = nn.Linear(width, width), nn.Linear(width, 1)

    def forward(self, x: Tensor, y: Tensor, x_points: Tensor, y_points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps descriptors (B, N, C) and positions (B, N, 2) to similarities (B, N, M), matchabilities."""
        x_turn, y_turn = (rotation(self.frequencies(points)) for points in (x_points, y_points))
        for own, cross in zip(self.self_attention, self.cross_attention, strict=True):
            x, y = cross(own(x, *x_turn), own(y, *y_turn))
        scores = self.project(x) @ self.project(y).transpose(-1, -2) / x.shape[-1] ** 0.5
        return scores, self.matchability(x), self.matchability(y)


def mlp(width: int) -> nn.Sequential:
    """Returns the layers that take a point and its message."""
    return nn.Sequential(nn.Linear(2 * width, 2 * width), nn.LayerNorm(2 * width), nn.GELU(), nn.Linear(2 * width, width))


def rotation(angles: Tensor) -> tuple[Tensor, Tensor]:
    """Returns cosines and sines, each for two channels: (B, N, d / 2) -> (B, 1, N, d)."""
    angles = angles.repeat_interleave(2, -1).unsqueeze(1)
    return angles.cos(), angles.sin()


def turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Returns each pair of channels turned by its angle: (B, H, N, d)."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cosine + torch.stack([-b, a], -1).flatten(-2) * sine


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, C) -> (B, H, N, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """(B, H, N, d) -> (B, N, C)."""
    return x.transpose(1, 2).flatten(2)


def light_glue(**sizes: int) -> nn.Module:
    """Returns the network with seeded weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LightGlue(**sizes).eval()


def pairs(count: int, points: int, width: int = WIDTH) -> list[dict[str, Tensor]]:
    """Returns calls of the network with one pair of images each."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"x": width, "y": width, "x_points": 2, "y_points": 2}
    return [{name: torch.randn(1, points, size, generator=generator) for name, size in shapes.items()} for _ in range(count)]
