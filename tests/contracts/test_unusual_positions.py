"""Products that are no activations' business: positions and angles stay float and are listed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import qpass
from tests.contracts.judge import judge, quantized, signal_to_error
from tests.contracts.unusual import Net, images, net


def _turned(x: Tensor, angles: Tensor) -> Tensor:
    """Rotates pairs of channels: (..., tokens, channels) by (tokens, channels)."""
    first, second = x.chunk(2, -1)
    return x * angles.cos() + torch.cat([-second, first], -1) * angles.sin()


class Rotary(Net):
    """Rotary positions of so many tokens, whose angles the forward computes as transformers' models do."""

    def __init__(self, side: int, form: str) -> None:
        super().__init__()
        self.p, self.form = nn.Conv2d(3, 32, 32 // side, 32 // side), form
        self.register_buffer("inv_freq", 10000 ** (-torch.arange(4) / 4), persistent=False)

    def angles(self, x: Tensor, count: int) -> Tensor:
        positions = torch.arange(count, dtype=torch.float32)
        if self.form == "matmul":
            expanded = self.inv_freq[None, :, None].expand(x.shape[0], 4, 1)
            return (expanded @ positions[None, None].expand(x.shape[0], 1, count)).transpose(1, 2)[:, None].repeat(1, 1, 1, 2)
        if self.form == "outer":
            return torch.outer(positions, self.inv_freq).repeat(1, 2)
        if self.form == "einsum":
            return torch.einsum("n,d->nd", positions, self.inv_freq).repeat(1, 2)
        return (positions[:, None] * self.inv_freq).repeat(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        t = self.tok(x)
        q, k, v = (y.unflatten(-1, (4, 8)).transpose(1, 2) for y in self.qkv(self.n(t)).chunk(3, -1))
        angles = self.angles(x, t.shape[1])
        y = nn.functional.scaled_dot_product_attention(_turned(q, angles), _turned(k, angles), v)
        return self.h((t + y.transpose(1, 2).flatten(2)).mean(1))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["matmul", "outer", "einsum", "multiplied"])
def test_angles_that_the_forward_computes_stay_float(form: str, tmp_path: Path) -> None:
    model, batches, x = rotary(form), [images(8), images(8, 1)], images(3, 2)
    graph = judge(model, batches, [x], decibels=30, folder=tmp_path)
    with_constant_angles = quantized(rotary("outer"), batches)(x)
    assert signal_to_error([model(x)], [graph(x)]) > signal_to_error([model(x)], [with_constant_angles]) - 1.0


def rotary(form: str) -> nn.Module:
    """Returns the network for 256 tokens, whose angles go to 255."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Rotary(16, form).eval()


class FourierPoints(nn.Module):
    """Prompts as Segment Anything embeds them: points (batch, n, 2) of [0, 1] through random frequencies into sines and cosines."""

    def __init__(self, scale: float = 4.0) -> None:
        super().__init__()
        self.register_buffer("frequencies", scale * torch.randn(2, 16))
        self.qkv, self.norm, self.out = nn.Linear(32, 96), nn.LayerNorm(32), nn.Linear(32, 5)

    def forward(self, points: Tensor) -> Tensor:
        angles = 2 * math.pi * ((2 * points - 1) @ self.frequencies)
        t = torch.cat([angles.sin(), angles.cos()], -1)
        q, k, v = (y.unflatten(-1, (4, 8)).transpose(1, 2) for y in self.qkv(self.norm(t)).chunk(3, -1))
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def test_points_that_end_in_sines_stay_float_and_are_listed(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = FourierPoints().eval()
    points = lambda rows, seed: torch.rand(rows, 9, 2, generator=torch.Generator().manual_seed(seed))  # noqa: E731
    graph = judge(model, [points(32, 0), points(32, 1)], [points(5, 2)], decibels=28, folder=tmp_path)
    report = qpass.quantization_report(graph)
    assert report.counts["linear"] == 2
    assert any("sin" in reason for _, _, reason in report.stayed_float)


@pytest.mark.slow
def test_exponentials_of_positions_stay_float(tmp_path: Path) -> None:
    def forward(s: Net, x: Tensor) -> Tensor:
        t = s.tok(x)
        places = torch.arange(16.0)[:, None]
        decay = torch.exp(-(places @ s.rates[None]))  # (16, 32)
        return s.h((t * decay + s.att(t)).mean(1))

    model = net(forward, init=lambda s: s.register_buffer("rates", torch.rand(32) * 0.5))
    judge(model, [images(16), images(16, 1)], [images(5, 2)], folder=tmp_path)
