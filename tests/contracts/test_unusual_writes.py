"""Forwards that write into tensors: what they compute is what the float model computes, or its twin that writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.contracts.judge import judge, leaves, quantized, signal_to_error
from tests.contracts.unusual import Net, images, net, tokens


def residual_sum(s: Net, x: Tensor) -> Tensor:
    t = s.tok(x)
    t += s.att(t)
    t += s.att(t)
    return s.h(s.n(t).mean(1))


def scaled_queries(s: Net, x: Tensor) -> Tensor:
    y = s.qkv(s.n(s.tok(x)))
    y[..., :32] *= 8
    q, k, v = (z.unflatten(-1, (4, 8)).transpose(1, 2) for z in y.chunk(3, -1))
    return s.h(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).mean(1))


def sizes_in_a_tensor(s: Net, x: Tensor) -> Tensor:
    g = torch.zeros(2, dtype=torch.long)
    g[0] = 4
    g[1] = 4
    return Net.forward(s, x) * g.sum().item()


def constant_written_to(s: Net, x: Tensor) -> Tensor:
    t = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    t.add_(x.mean())
    return s.a(s.att(s.tok(x)).mean(1)) + t


def activation_in_place(s: Net, x: Tensor) -> Tensor:
    return s.h(F.relu_(s.qkv(s.n(s.tok(x)))).mul_(0.5)[..., :32].mean(1))


def masked_in_place(s: Net, x: Tensor) -> Tensor:
    t = s.tok(x)
    t.masked_fill_(t < -1, 0.0)
    t[:, -1].zero_()
    t[:, 0].copy_(t[:, 1:].mean(1))
    return s.h(s.att(t).mean(1))


def through_a_view(s: Net, x: Tensor) -> Tensor:
    t = s.tok(x).clone()
    half = t.view(-1, 4, 4, 32)[:, :2]
    half += 1
    return s.h(s.att(t).mean(1))


def input_written_to(s: Net, x: Tensor) -> Tensor:
    x -= 0.25
    x.div_(0.5)
    return Net.forward(s, x)


def diagonal_written_to(s: Net, x: Tensor) -> Tensor:
    t = s.tok(x)
    logits = t @ t.mT / 32
    logits.diagonal(dim1=1, dim2=2).fill_(-1)
    torch.diagonal(logits, 1, 1, 2).mul_(0.5)
    return s.h((logits.softmax(-1) @ s.att(t)).mean(1))


def tokens_of_a_constant_mask(s: Net, x: Tensor) -> Tensor:
    t = s.tok(x).clone()
    even = torch.arange(16) % 2 == 0
    t[:, even] = t[:, even] + 2
    t[:, ~even, 3] *= 0.5
    return s.h(s.att(t).mean(1))


WITH_LAYER_A = {"constant_written_to": lambda s: setattr(s, "a", nn.Linear(32, 8))}


@pytest.mark.parametrize(
    "forward",
    [
        residual_sum, scaled_queries, sizes_in_a_tensor, constant_written_to, activation_in_place, masked_in_place,
        through_a_view, input_written_to, diagonal_written_to, tokens_of_a_constant_mask,
    ],
)  # fmt: skip
@pytest.mark.slow(after=1)
def test_a_forward_that_writes(forward: Callable[..., Tensor], tmp_path: Path) -> None:
    model = net(forward, init=WITH_LAYER_A.get(forward.__name__))
    judge(model, [images(16), images(16, 1)], [images(5, 2)], folder=tmp_path)


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("config", ["mixed-w6a7", "w4a8", "mixed-w4a5"])
def test_residual_sums_in_place_at_every_width(config: Any) -> None:
    def out_of_place(s: Net, x: Tensor) -> Tensor:
        t = s.tok(x)
        t = t + s.att(t)
        t = t + s.att(t)
        return s.h(s.n(t).mean(1))

    assert_as_good_as_twin(net(residual_sum), net(out_of_place), config)


@pytest.mark.slow
def test_residual_sums_in_place_are_polished() -> None:
    config = {"preset": "mixed-w4a5", "polish": "quick", "reconstruction": {"steps": 10, "batch_size": 8}}
    assert_as_good_as_twin(tokens("+="), tokens("cat"), config)


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("write", ["zeros", "empty"])
def test_a_class_token_is_written_into_a_buffer(write: str, tmp_path: Path) -> None:
    judge(tokens(write), [images(16), images(16, 1)], [images(5, 2)], folder=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("write", ["zeros", "empty"])
def test_blocks_behind_a_buffer_are_learned_as_behind_a_cat(write: str) -> None:
    config = {"preset": "aiqvit-w4a4", "reconstruction": {"steps": 20, "batch_size": 8, "ranks": [2], "search_steps": 0}}
    assert_as_good_as_twin(tokens(write), tokens("cat"), config)


def assert_as_good_as_twin(model: nn.Module, twin: nn.Module, config: Any) -> None:
    """The graph is as near to the float model as that of a model which computes the same without writing."""
    x = images(16, 2)
    torch.testing.assert_close(model(x), twin(x))
    wanted, batches = leaves(twin(x)), [images(16), images(16, 1)]
    found, best = (signal_to_error(wanted, leaves(quantized(m, batches, config)(x))) for m in (model, twin))
    assert found > best - 1.0


@pytest.mark.slow
def test_an_assertion_on_inputs_holds_no_export_up(tmp_path: Path) -> None:
    def forward(s: Net, x: Tensor, mask: Tensor) -> Tensor:
        torch._check_tensor_all(mask.sum(-1) > 0)
        return s.h(s.att(s.tok(x), attn_mask=mask[:, None, None] > 0).mean(1))

    batch = lambda rows, seed: {"x": images(rows, seed), "mask": (torch.arange(16) < 9 + seed).long().expand(rows, -1)}  # noqa: E731
    judge(net(forward), [batch(16, 0), batch(16, 1)], [batch(5, 2)], folder=tmp_path)
