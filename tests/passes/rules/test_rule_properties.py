"""Every rule keeps the numbers, whatever the shapes: equal sizes, one row, scalars, constants that broadcast in odd ways.

Graphs are drawn around the pattern of each rule; the caller's model is the judge, at two batch sizes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qpass.graph.capture.trace import trace
from qpass.graph.facts import facts_of
from qpass.passes import Canonicalize

SIZES = st.integers(1, 3)
FEW = settings(max_examples=10, deadline=None, derandomize=True)


def seeded(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape) + len(shape)))


class Drawn(nn.Module):
    """A forward as a function of the module, which holds its constants and layers."""

    def __init__(self, forward: Any, **own: Tensor | nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, value in own.items():
            self.register_buffer(name, value) if isinstance(value, Tensor) else self.add_module(name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def check(model: nn.Module, *shape: int) -> None:
    """Compares the canonical graph with the model on batches of two and of three rows, where it takes the latter."""
    model.eval()
    try:
        model(seeded(2, *shape))
    except RuntimeError:
        assume(False)  # shapes that do not broadcast
    graph = trace(model, (seeded(2, *shape),))
    Canonicalize()(graph)
    for rows in (2, 3) if facts_of(graph).dynamic_batch else (2,):
        x = seeded(rows, *shape)
        expected = model(x)
        torch.testing.assert_close(graph(x), expected, rtol=1e-4, atol=1e-5)


@FEW
@given(data=st.data(), tokens=SIZES, channels=SIZES, bias=st.booleans(), first=st.booleans(), kind=st.sampled_from(["*", "+"]))
def test_linear_and_a_constant(data: st.DataObject, tokens: int, channels: int, bias: bool, first: bool, kind: str) -> None:
    """Scales and biases for each channel fold; those for tokens, samples, or with more dims do not."""
    shapes = [(), (1,), (channels,), (tokens, 1), (tokens, channels), (1, 1, channels), (1, 1, 1, channels), (2, 1, 1, 1)]
    constant = seeded(*data.draw(st.sampled_from(shapes)))
    constant = constant.double() if data.draw(st.booleans()) and constant.dim() else constant

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        a, b = (m.c, m.linear(x)) if first else (m.linear(x), m.c)
        return a * b if kind == "*" else a + b

    check(Drawn(forward, linear=nn.Linear(4, channels, bias=bias), c=constant), tokens, 4)


@FEW
@given(tokens=SIZES, weight=st.sampled_from([(4,), (4, 1), (4, 3), (1, 4, 3)]), added=st.sampled_from([(), (1,), (3,), (2, 1)]))
def test_a_product_with_a_constant_and_a_sum(tokens: int, weight: tuple[int, ...], added: tuple[int, ...]) -> None:
    check(Drawn(lambda m, x: x @ m.w + m.b, w=seeded(*weight), b=seeded(*added)), tokens, 4)


@FEW
@given(bias=st.sampled_from([(3,), (1, 3), (1,), (2, 3)]), beta=st.sampled_from([0, 1, 2]), alpha=st.sampled_from([1, 0.5]))
def test_addmm(bias: tuple[int, ...], beta: int, alpha: float) -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return torch.addmm(m.b, x.mean(0), m.w, beta=beta, alpha=alpha)

    check(Drawn(forward, w=seeded(4, 3), b=seeded(*bias)), 2, 4)


MOVES = {
    "none": lambda y: y,
    "flatten": lambda y: y.flatten(0, 1),
    "merge channels": lambda y: y.flatten(1),
    "as an image": lambda y: y.reshape(y.shape[0], y.shape[1], y.shape[2], 1),
    "swapped": lambda y: y.transpose(1, 2),
    "twice": lambda y: y.transpose(1, 2).reshape(y.shape[0], y.shape[1], y.shape[2]),
    "by the other size": lambda y: y.reshape(-1, y.shape[1]),
    "through one dim": lambda y: y.flatten().reshape(-1, y.shape[-1]),
}


def normalized(channels: int, dims: int) -> nn.Module:
    norm = (nn.BatchNorm1d if dims < 4 else nn.BatchNorm2d)(channels, affine=channels != 2)
    norm.running_mean, norm.running_var = seeded(channels), seeded(channels).square() + 0.5
    return norm


@FEW
@given(tokens=SIZES, channels=SIZES, move=st.sampled_from(sorted(MOVES)), layer=st.sampled_from(["linear", "conv1d", "conv2d"]))
def test_batch_norm_behind_a_layer(tokens: int, channels: int, move: str, layer: str) -> None:
    """Of equal sizes too, where channels and tokens cannot be told apart by their count."""
    layers = {
        "linear": (nn.Linear(4, channels), (tokens, 4)),
        "conv1d": (nn.Conv1d(4, channels, 1), (4, tokens)),
        "conv2d": (nn.Sequential(nn.Conv2d(4, channels, 1, bias=False), nn.Flatten(2)), (4, 1, tokens)),
    }
    made, shape = layers[layer]
    moved = MOVES[move](made(seeded(2, *shape)))
    assume(moved.dim() > 1)
    forward = lambda m, x: m.norm(MOVES[move](m.layer(x)))  # noqa: E731
    check(Drawn(forward, layer=made, norm=normalized(moved.shape[1], moved.dim())), *shape)


@FEW
@given(order=st.permutations(range(5)), sizes=st.tuples(SIZES, SIZES, SIZES), dim=st.integers(-5, 4))
def test_a_fused_projection_is_split(order: list[int], sizes: tuple[int, int, int], dim: int) -> None:
    parts, heads, width = sizes
    assume(order[dim] != 0)  # as many parts as the batch has rows

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        split = m.linear(x).reshape(x.shape[0], 2, parts, heads, width).permute(order)
        return sum(part * (i + 1) for i, part in enumerate(split.unbind(dim)))

    check(Drawn(forward, linear=nn.Linear(4, parts * heads * width)), 2, 4)


@FEW
@given(
    factors=st.sampled_from([{}, {"alpha": 2}, {"beta": 0.5}, {"beta": 0}]),
    mask=st.sampled_from([(1,), (3,), (3, 1), (1, 3, 3)]),
)
def test_baddbmm(factors: dict[str, float], mask: tuple[int, ...]) -> None:
    check(Drawn(lambda m, x: torch.baddbmm(m.mask, x, x.mT, **factors).softmax(-1) @ x, mask=seeded(*mask)), 3, 4)


@FEW
@given(
    p=st.sampled_from([0.0, 0.5]),
    start=st.integers(-2, 1),
    end=st.integers(1, 4),
    pad=st.sampled_from([(0, 0), (0, 1), (-1, 0)]),
)
def test_what_does_nothing(p: float, start: int, end: int, pad: tuple[int, int]) -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = F.pad(F.dropout(x, p, m.training)[:, start:end], pad, value=1.0)
        return y.to(x.dtype).contiguous().detach() + y.to(torch.float64).sum()

    check(Drawn(forward), 3, 4)


@FEW
@given(
    queries=SIZES, keys=SIZES, causal=st.booleans(), scale=st.sampled_from([None, 0.3]), mask=st.sampled_from([None, "q", "k", "h"])
)  # fmt: skip
def test_attention(queries: int, keys: int, causal: bool, scale: float | None, mask: str | None) -> None:
    shapes = {None: (1,), "q": (queries, 1), "k": (1, keys), "h": (2, queries, keys)}

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        heads = x.unflatten(-1, (2, 2)).transpose(1, 2)
        q, k = heads[:, :, :queries], heads[:, :, -keys:]
        options = {"attn_mask": m.mask > 0} if mask else {"is_causal": causal}
        return F.scaled_dot_product_attention(q, k, k * 2, scale=scale, **options)

    check(Drawn(forward, mask=seeded(*shapes[mask])), 3, 4)
