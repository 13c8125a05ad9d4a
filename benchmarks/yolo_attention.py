"""Attention of recent YOLO detectors: 1x1 convolutions make queries, keys and values."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _conv(channels: int, out: int, size: int = 1, groups: int = 1, act: bool = False) -> nn.Sequential:
    layer = nn.Conv2d(channels, out, size, padding=size // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out), nn.SiLU() if act else nn.Identity())


class PositionalAttention(nn.Module):
    """Attention over all pixels with narrow keys and positions by convolution, and a feedforward.

    Keys have half a head's width. The convolution is depthwise. The feedforward has two layers.

    Shapes: (batch, channels, height, width) in and out. Source: YOLO11
    (https://docs.ultralytics.com/models/yolo11).
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head, self.key = heads, channels // heads, channels // heads // 2
        self.qkv = _conv(channels, channels + 2 * heads * self.key)
        self.positions, self.proj = _conv(channels, channels, 3, groups=channels), _conv(channels, channels)
        self.mlp = nn.Sequential(_conv(channels, 2 * channels, act=True), _conv(2 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        qkv = self.qkv(x).view(batch, self.heads, 2 * self.key + self.head, height * width)
        q, k, v = qkv.split([self.key, self.key, self.head], dim=2)
        weights = (q.transpose(-2, -1) @ k * self.key**-0.5).softmax(-1)
        y = (v @ weights.transpose(-2, -1)).view(batch, channels, height, width)
        y = y + self.positions(v.reshape(batch, channels, height, width))
        x = x + self.proj(y)
        return x + self.mlp(x)


class AreaAttention(nn.Module):
    """Attention within areas, which are runs of pixels.

    Shapes: (batch, channels, height, width) in and out. Source: YOLO12
    (https://arxiv.org/abs/2502.12524).
    """

    def __init__(self, channels: int, heads: int, areas: int) -> None:
        super().__init__()
        self.heads, self.areas = heads, areas
        self.qkv, self.proj = _conv(channels, 3 * channels), _conv(channels, channels)
        self.positions = _conv(channels, channels, 7, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        qkv = self.qkv(x).flatten(2).transpose(1, 2).reshape(batch * self.areas, -1, 3 * channels)
        q, k, v = qkv.unflatten(-1, (self.heads, -1)).transpose(1, 2).chunk(3, -1)
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        as_map = lambda t: t.transpose(1, 2).reshape(batch, height, width, channels).permute(0, 3, 1, 2)  # noqa: E731
        return x + self.proj(as_map(y) + self.positions(as_map(v)))
