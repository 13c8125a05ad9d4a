"""Networks that write are quantized as well as those that say the same without writing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qpass
from qpass.errors import UnsupportedError


class Attention(nn.Module):
    """Attention of four heads; ``change`` works on queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(32), nn.Linear(32, 96)

    def forward(self, t: Tensor, change: Callable[[Tensor], Tensor] = lambda y: y) -> Tensor:
        q, k, v = (y.unflatten(-1, (4, 8)).transpose(1, 2) for y in change(self.qkv(self.norm(t))).chunk(3, -1))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Network(nn.Module):
    """Patches, two blocks and a head, put together by a function."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.patches, self.blocks = nn.Conv2d(3, 32, 8, 8), nn.ModuleList([Attention(), Attention()])
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 5)
        self.first = nn.Parameter(torch.randn(1, 1, 32))

    def tokens(self, x: Tensor) -> Tensor:
        return self.patches(x).flatten(2).transpose(1, 2)

    def attention(self, t: Tensor, change: Callable[[Tensor], Tensor] = lambda y: y) -> Tensor:
        return self.blocks[1](self.blocks[0](t, change))

    def classify(self, t: Tensor) -> Tensor:
        return self.head(self.norm(t).mean(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def residual(m: Network, x: Tensor) -> Tensor:
    t = m.tokens(x)
    for block in m.blocks:
        t += block(t)
    return m.classify(t)


def written_tokens(make: Callable[..., Tensor]) -> Callable[[Network, Tensor], Tensor]:
    def function(m: Network, x: Tensor) -> Tensor:
        t = make(x.shape[0], 17, 32)
        t[:, 0] = m.first[:, 0]
        t[:, 1:] = m.tokens(x)
        return m.classify(t + m.attention(t))

    return function


def scaled_queries(m: Network, x: Tensor) -> Tensor:
    def change(y: Tensor) -> Tensor:
        y[..., :32] *= 8
        return y

    return m.head(m.attention(m.tokens(x), change).mean(1))


def written_sizes(m: Network, x: Tensor) -> Tensor:
    sizes = torch.zeros(2, dtype=torch.long)
    sizes[0], sizes[1] = 4, 4
    return m.classify(m.attention(m.tokens(x))) * sizes.sum().item()


def written_constant(m: Network, x: Tensor) -> Tensor:
    constant = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    constant.add_(x.mean())
    return m.classify(m.attention(m.tokens(x))) + constant


def residual_without(m: Network, x: Tensor) -> Tensor:
    t = m.tokens(x)
    for block in m.blocks:
        t = t + block(t)
    return m.classify(t)


def joined_tokens(m: Network, x: Tensor) -> Tensor:
    t = torch.cat([m.first.expand(x.shape[0], -1, -1), m.tokens(x)], 1)
    return m.classify(t + m.attention(t))


def joined_queries(m: Network, x: Tensor) -> Tensor:
    change = lambda y: torch.cat([y[..., :32] * 8, y[..., 32:]], -1)  # noqa: E731
    return m.head(m.attention(m.tokens(x), change).mean(1))


CASES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "residual": (residual, residual_without),
    "zeros": (written_tokens(torch.zeros), joined_tokens),
    "empty": (written_tokens(torch.empty), joined_tokens),
    "queries": (scaled_queries, joined_queries),
    "sizes": (written_sizes, lambda m, x: m.classify(m.attention(m.tokens(x))) * 8),
    "constant": (
        written_constant,
        lambda m, x: m.classify(m.attention(m.tokens(x))) + (torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]) + x.mean()),
    ),
}


def images(seed: int) -> Tensor:
    return torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def sqnr_db(function: Callable[..., Tensor], config: Any) -> float:
    model, x = Network(function).eval(), images(1)
    graph = qpass.quantize_graph(model, [images(0)], config, progress=False)
    with torch.no_grad():
        expected, found = model(x), graph(x)
        assert torch.equal(found, graph(x))
    return (10 * torch.log10(expected.square().sum() / (expected - found).square().sum())).item()


LEARNING = {"preset": "mixed-w4a5", "polish": "quick", "reconstruction": {"steps": 2, "batch_size": 4}}
CHECKED = [("w8a8", case) for case in CASES] + [("mixed-w4a5", "residual"), ("mixed-w4a5", "empty")]
NIGHTLY = [(config, case) for config in ("mixed-w6a7", "w4a8", "mixed-w4a5") for case in CASES if (config, case) not in CHECKED]
LEARNED = [(LEARNING, case) for case in CASES if case != "constant"]


@pytest.mark.slow(after=1)
@pytest.mark.parametrize(
    ("config", "case"),
    [*CHECKED, *(pytest.param(*entry, marks=pytest.mark.nightly) for entry in NIGHTLY + LEARNED)],
    ids=lambda value: value if isinstance(value, str) else "learned",
)
def test_a_network_that_writes_is_quantized_as_well_as_one_that_does_not(config: Any, case: str) -> None:
    writes, says = CASES[case]
    assert sqnr_db(writes, config) == pytest.approx(sqnr_db(says, config), abs=0.5)


@pytest.mark.parametrize("function", CASES["constant"])
def test_a_value_of_the_whole_batch_between_blocks_is_no_sample_to_learn_from(function: Callable[..., Tensor]) -> None:
    with pytest.raises(
        UnsupportedError, match="a value between blocks has no dim for the samples; quantize without reconstruction"
    ):
        qpass.quantize_graph(Network(function).eval(), [images(0)], LEARNING, progress=False)
