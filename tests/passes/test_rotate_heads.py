from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten, calls, get_constant
from qpass.graph.facts import facts_of
from qpass.passes import Canonicalize, RotateHeads
from qpass.passes.rotate_heads import cosine_transform
from tests.models import MaskedAttention, small_vit


def canonical(model: nn.Module, x: Tensor) -> fx.GraphModule:
    graph = trace(model, (x,))
    Canonicalize()(graph)
    return graph


def tokens(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def check_computes(graph: fx.GraphModule, model: nn.Module, x: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(graph(x).double(), model.double()(x.double()), rtol=tolerance, atol=tolerance)


def weights(graph: fx.GraphModule) -> list[Tensor]:
    found = [get_constant(graph, node.args[1]) for node in calls(graph, aten.linear.default)]
    return [weight for weight in found if weight is not None]


@given(size=st.integers(1, 40))
def test_the_cosine_transform_is_orthonormal(size: int) -> None:
    matrix = cosine_transform(size)
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-12)
    if size > 1:
        assert (matrix.abs().amax(0) < 1).all(), "no channel stays alone"


class Heads(nn.Module):
    """Self-attention as people write it: fused or separate projections, with and without biases, scaled before or behind."""

    def __init__(self, heads: int, size: int, *, fused: bool, bias: bool, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.heads, self.fused, self.change = heads, fused, change
        width = heads * size
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.query, self.key, self.value = (nn.Linear(width, width, bias=bias) for _ in range(3))
        self.out = nn.Linear(width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        if self.fused:
            q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (
                layer(x).view(batch, tokens, self.heads, -1).transpose(1, 2) for layer in (self.query, self.key, self.value)
            )
        attention = (self.change(q) * 0.3 @ k.transpose(-2, -1)).softmax(-1)
        return self.out((attention @ v).transpose(1, 2).reshape(batch, tokens, width))


def heads(
    *, fused: bool = True, bias: bool = True, change: Callable[[Tensor], Tensor] = lambda q: q, size: int = 6
) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Heads(2, size, fused=fused, bias=bias, change=change).eval()


@settings(max_examples=8, deadline=None)
@given(fused=st.booleans(), bias=st.booleans(), size=st.sampled_from([1, 5, 8]))
def test_the_network_computes_what_it_computed_with_all_its_heads_turned(fused: bool, bias: bool, size: int) -> None:
    model = heads(fused=fused, bias=bias, size=size)
    x = tokens(3, 7, 2 * size)
    graph = canonical(model, x)
    before = copy.deepcopy(weights(graph))
    assert RotateHeads()(graph)
    check_computes(graph, model, x)
    if size > 1:
        changed = [bool((old - new).abs().max() > 1e-3) for old, new in zip(before, weights(graph), strict=True)]
        assert all(changed)
    assert not RotateHeads()(graph), "once is enough"


def test_the_heads_of_a_vision_transformer(images: Tensor) -> None:
    model = small_vit()
    graph = canonical(model, images)
    assert RotateHeads()(graph)
    check_computes(graph, model, images, 1e-4)


def test_queries_and_keys_come_to_the_same_energy_and_outliers_spread() -> None:
    model = heads(fused=False, bias=False)
    with torch.no_grad():
        model.query.weight *= 20
        model.key.weight[3] *= 50
    x = tokens(3, 7, 12)
    graph = canonical(model, x)
    RotateHeads()(graph)
    query, key, value, _ = weights(graph)
    energy = [(w.square().sum(1)).reshape(2, 6).sum(1) for w in (query, key)]
    torch.testing.assert_close(energy[0], energy[1], rtol=1e-4, atol=0)
    norms = key[:6].norm(dim=1)
    assert norms.max() / norms.median() < 3, "one key channel was 50 times as great as the others"
    of_heads = value.square().sum(1).reshape(2, 6).sum(1)
    torch.testing.assert_close(of_heads[0], of_heads[1], rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    "change",
    [lambda q: F.layer_norm(q, q.shape[-1:]), lambda q: q.roll(1, -1), lambda q: q + q.flip(-1)],
    ids=["normalised", "rolled", "mixed"],
)
def test_queries_that_are_more_than_moved_stay(change: Callable[[Tensor], Tensor]) -> None:
    """Their values are turned all the same."""
    model = heads(fused=False, change=change)
    x = tokens(3, 7, 12)
    graph = canonical(model, x)
    before = copy.deepcopy(weights(graph))
    assert RotateHeads()(graph)
    same = [torch.equal(old, new) for old, new in zip(before, weights(graph), strict=True)]
    assert same == [True, True, False, False]
    ((_, _, reason),) = facts_of(graph).unrotated
    assert reason == "q or k is not just moved and scaled after its Linear, or heads share it"
    check_computes(graph, model, x)


def test_attention_with_a_mask_is_turned() -> None:
    model = MaskedAttention()
    x = tokens(2, 5, 16)
    graph = canonical(model.eval(), x)
    assert RotateHeads()(graph)
    check_computes(graph, model, x)


class SharedKeys(nn.Module):
    """Two heads of queries for one of keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q = self.query(x).unflatten(-1, (2, 4)).transpose(1, 2)
        k, v = (layer(x).unsqueeze(1).expand(-1, 2, -1, -1) for layer in (self.key, self.value))
        y = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


def test_heads_that_share_keys_stay() -> None:
    model = SharedKeys().eval()
    x = tokens(2, 5, 8)
    graph = canonical(model, x)
    assert not RotateHeads()(graph)
    reasons = [reason for *_, reason in facts_of(graph).unrotated]
    assert [reason.split(" is")[0] for reason in reasons] == ["q or k", "v"]


class ReadTwice(nn.Module):
    """Attention whose output is read beside the projection."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = heads(fused=False)

    def forward(self, x: Tensor) -> Tensor:
        a = self.attention
        q, k, v = a.query(x), a.key(x), a.value(x)
        y = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return a.out(y) + y + q


def test_values_and_queries_that_others_read_stay() -> None:
    model = ReadTwice().eval()
    x = tokens(2, 5, 12)
    assert not RotateHeads()(canonical(model, x))
