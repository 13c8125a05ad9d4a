"""Regions of a forward, and masks that are computed: every Linear is found in the former, and the latter mask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import qpass
from tests.contracts.judge import judge
from tests.contracts.unusual import Net, images, net

TOKENS = 16


def with_gradients(s: Net, x: Tensor) -> Tensor:
    with torch.set_grad_enabled(True):
        t = s.att(s.tok(x))
    return s.h(t.mean(1))


def without_gradients(s: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        t = s.tok(x)
    with torch.set_grad_enabled(True):
        t = t + s.att(t)
        with torch.no_grad():
            t = t + s.att(t)
    return s.h(t.mean(1))


def autocast(s: Net, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        t = s.att(s.tok(x))
    return s.h(t.float().mean(1))


def autocast_off(s: Net, x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        t = s.att(s.tok(x))
    return s.h(t.mean(1))


@pytest.mark.slow(after=1)
@pytest.mark.parametrize(
    ("forward", "linears"), [(with_gradients, 2), (without_gradients, 3), (autocast, 2), (autocast_off, 2)]
)
def test_layers_of_a_region_are_quantized(forward: Callable[..., Tensor], linears: int, tmp_path: Path) -> None:
    twin = net() if forward is autocast else None  # autocast is taken in float32
    graph = judge(net(forward), [images(16), images(16, 1)], [images(5, 2)], folder=tmp_path, twin=twin)
    assert qpass.quantization_report(graph).counts["linear"] == linears


def _lower() -> Tensor:
    return torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()


#: How a forward makes its mask from the boolean buffer ``s.m``, or from nothing.
MASKS: dict[str, Callable[[Net], Tensor]] = {
    "m": lambda s: s.m,
    "m[None, None]": lambda s: s.m[None, None],
    "~m": lambda s: ~s.inverse,
    "m == 1": lambda s: s.numbers == 1,
    ".to(bool)": lambda s: s.numbers.to(torch.bool),
    ".bool()": lambda s: s.floats.bool(),
    "ones.tril": lambda s: torch.ones(TOKENS, TOKENS).tril().bool(),
    "bool ones.tril": lambda s: _lower(),
    "tril == 1": lambda s: torch.ones(TOKENS, TOKENS).tril() == 1,
    "comparison of positions": lambda s: torch.arange(TOKENS)[:, None] >= torch.arange(TOKENS)[None],
    "and": lambda s: s.m & (s.numbers > 0),
    "logical_not": lambda s: torch.logical_not(s.inverse),
    "where": lambda s: torch.where(s.m, 0.0, float("-inf")),
    "masked_fill": lambda s: torch.zeros(TOKENS, TOKENS).masked_fill(~s.m, float("-inf")),
    "expanded": lambda s: s.m.expand(4, -1, -1),
    "rows masked whole": lambda s: s.m & (torch.arange(TOKENS) > 2)[:, None],
    "float rows masked whole": lambda s: torch.zeros(TOKENS, TOKENS).masked_fill(
        (torch.arange(TOKENS) < 3)[:, None], float("-inf")
    ),
}


def _buffers(s: Net) -> None:
    s.register_buffer("m", _lower())
    s.register_buffer("inverse", ~_lower())
    s.register_buffer("numbers", _lower().long())
    s.register_buffer("floats", _lower().float(), persistent=False)


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("how", MASKS)
def test_a_mask_that_is_computed(how: str, tmp_path: Path) -> None:
    def forward(s: Net, x: Tensor) -> Tensor:
        t = s.tok(x)
        return s.h((t + s.att(t, attn_mask=MASKS[how](s)))[:, :5].mean(1))

    folder = tmp_path if "rows" in how or "~" in how else None  # the files take most of the time
    judge(net(forward, init=_buffers), [images(16), images(16, 1)], [images(5, 2)], folder=folder)


def test_a_mask_of_the_input(tmp_path: Path) -> None:
    def forward(s: Net, x: Tensor, length: Tensor) -> Tensor:
        seen = torch.arange(TOKENS) < length[:, None]
        return s.h(s.att(s.tok(x), attn_mask=seen[:, None, None]).mean(1))

    batch = lambda rows, seed: {"x": images(rows, seed), "length": torch.arange(rows) % TOKENS}  # noqa: E731  some have none
    judge(net(forward), [batch(16, 0), batch(16, 1)], [batch(5, 2)], folder=tmp_path)


def _coder(s: Net) -> None:
    layer = nn.TransformerDecoderLayer(32, 4, 64, batch_first=True)
    s.decoder, s.queries = nn.TransformerDecoder(layer, 1), nn.Parameter(torch.randn(3, 32))
    s.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 1)


@pytest.mark.slow
def test_masks_of_torch_transformers_that_may_be_causal(tmp_path: Path) -> None:
    """torch reads the values of such masks to find out whether they are causal."""

    def forward(s: Net, x: Tensor) -> Tensor:
        t = s.encoder(s.tok(x), mask=_lower().logical_not())
        later = nn.Transformer.generate_square_subsequent_mask(3)
        queries = s.queries + t[:, :3]
        y = s.decoder(queries, t, tgt_mask=later, memory_mask=torch.arange(48).view(3, TOKENS) % 5 == 0)
        return s.h(y.mean(1))

    judge(net(forward, init=_coder), [images(16), images(16, 1)], [images(5, 2)], folder=tmp_path)


class Causal(nn.Module):
    """Causal attention over as many tokens as there are, as a part of a model that changes them."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, t: Tensor) -> Tensor:
        q, k, v = (y.unflatten(-1, (4, 8)).transpose(1, 2) for y in self.qkv(t).chunk(3, -1))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))


class Sizes(nn.Module):
    """Calls its part with whatever number of tokens comes."""

    def __init__(self) -> None:
        super().__init__()
        self.part = Causal()

    def forward(self, t: Tensor) -> Tensor:
        return self.part(t).mean(1) if t.sum().isfinite().item() else t.mean(1)


def test_a_causal_part_of_several_sizes_masks_each() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Sizes().eval()
    draw = lambda tokens, seed: torch.randn(8, tokens, 32, generator=torch.Generator().manual_seed(seed))  # noqa: E731
    graph = qpass.quantize_graph(model, [draw(6, 0), draw(9, 1), draw(6, 2), draw(9, 3)], submodules=["part"], progress=False)
    for tokens in (6, 9):
        wanted, found = model(draw(tokens, 4)), graph(draw(tokens, 4))
        assert (wanted - found).norm() < 0.05 * wanted.norm()
