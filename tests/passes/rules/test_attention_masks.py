"""Masks of attention: every kind that scaled_dot_product_attention takes gives what it gives there, to the file."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import qpass
from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten, calls, is_call
from qpass.graph.facts import facts_of
from qpass.passes import Canonicalize
from qpass.passes.rules.decompose_attention import decompose_attention

HIDE = -math.inf


class Attention(nn.Module):
    """Attention over tokens (B, N, 16) under a mask that ``make(module, x, mask)`` gives."""

    def __init__(self, make: Callable[..., Tensor | None], heads: int = 2, **options: object) -> None:
        super().__init__()
        self.make, self.heads, self.options = make, heads, options
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 8)
        self.register_buffer("m", torch.ones(6, 6, dtype=torch.bool).tril(2))
        self.register_buffer("whole", torch.ones(6, 6, dtype=torch.bool).index_fill(0, torch.tensor([1, 4]), False))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.make(self, x, mask), **self.options)
        return self.out(y.transpose(1, 2).flatten(2))


def seeded(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def made(make: Callable[..., Tensor | None], **options: object) -> nn.Module:
    torch.manual_seed(0)
    return Attention(make, **options).eval()


def check(model: nn.Module, inputs: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> int:
    """Compares the canonical graph with the model on two batches; returns how many operators fill zeros into its output."""
    graph = trace(model, inputs)
    Canonicalize()(graph)
    for batch in (inputs, others):
        expected = model(*batch)
        assert expected.isfinite().all()
        torch.testing.assert_close(graph(*batch), expected, rtol=1e-5, atol=1e-5)
    filled = [node.args[0] for node in calls(graph, aten.masked_fill.Scalar) if node.args[2] == 0.0]
    return sum(is_call(node, aten.matmul.default) for node in filled)


COMPUTED: dict[str, Callable[..., Tensor]] = {
    "with more dims": lambda m, x, _: m.m[None, None],
    "inverted": lambda m, x, _: ~~m.m,
    "of integers": lambda m, x, _: m.m.long() == 1,
    "cast": lambda m, x, _: m.m.float().to(torch.bool),
    "made in forward": lambda m, x, _: torch.ones(6, 6, dtype=torch.bool).tril(),
    "made as a float": lambda m, x, _: torch.ones(6, 6).tril().bool(),
    "of numbers": lambda m, x, _: (torch.arange(6) < 4)[None],
    "of two": lambda m, x, _: m.m & (torch.arange(6) < 5) | torch.eye(6, dtype=torch.bool),
    "a table": lambda m, x, _: torch.tensor([[True, True, False, True, True, False]]),
    "expanded": lambda m, x, _: m.m.expand(x.shape[0], 2, 6, 6),
    "float": lambda m, x, _: torch.zeros(6, 6).masked_fill(~m.m, HIDE),
    "float from where": lambda m, x, _: torch.where(m.m, 0.0, HIDE),
}  # fmt: skip


@pytest.mark.parametrize("make", COMPUTED.values(), ids=COMPUTED)
def test_a_mask_that_is_computed_from_constants(make: Callable[..., Tensor]) -> None:
    assert check(made(make), (seeded(2, 6, 16),), (seeded(3, 6, 16),)) == 0


FROM_INPUTS: dict[str, Callable[..., Tensor]] = {
    "signs": lambda m, x, _: (x.sum(-1) > -1e3)[:, None, None],
    "signs and constants": lambda m, x, _: (x[..., 0] < 0.5)[:, None, None] & m.m,
    "floats": lambda m, x, _: torch.where(x[..., 0] < 0.5, 0.0, HIDE)[:, None, None],
}


@pytest.mark.parametrize("make", FROM_INPUTS.values(), ids=FROM_INPUTS)
def test_a_mask_that_is_computed_from_inputs(make: Callable[..., Tensor]) -> None:
    assert check(made(make), (seeded(2, 6, 16),), (seeded(3, 6, 16),)) == 1


def test_a_bias_that_is_computed_from_inputs_hides_nothing_and_costs_nothing() -> None:
    bias = lambda m, x, _: (m.qkv(x)[..., :1] / 4).sigmoid()[:, None].transpose(-1, -2)  # noqa: E731
    assert check(made(bias), (seeded(2, 6, 16),), (seeded(3, 6, 16),)) == 0


WHOLE: dict[str, Callable[..., Tensor]] = {
    "boolean": lambda m, x, _: m.whole,
    "float": lambda m, x, _: torch.zeros(6, 6).masked_fill(~m.whole, HIDE),
    "all of it": lambda m, x, _: torch.zeros(1, 6, dtype=torch.bool),
    "twice the least float": lambda m, x, _: (1 - m.whole.float()) * -3e38 + (1 - m.whole.float()) * -3e38,
}


@pytest.mark.parametrize("make", WHOLE.values(), ids=WHOLE)
def test_rows_that_are_hidden_whole_are_zero(make: Callable[..., Tensor]) -> None:
    assert check(made(make), (seeded(2, 6, 16),), (seeded(3, 6, 16),)) == 1


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    shape=st.sampled_from([(1, 1, 6), (1, 6, 6), (2, 1, 6), (2, 6, 6), (2, 6, 1)]),
    kind=st.sampled_from(["boolean", "float", "scores"]),
    batched=st.booleans(),
    seed=st.integers(0, 99),
)
def test_masks_that_are_inputs(shape: tuple[int, ...], kind: str, batched: bool, seed: int) -> None:
    """Of every shape that broadcasts, with rows that see nothing."""

    def mask(rows: int) -> Tensor:
        drawn = torch.rand(rows if batched else 1, *shape, generator=torch.Generator().manual_seed(seed))
        floats = drawn if kind == "scores" else torch.zeros_like(drawn)
        return drawn > 0.6 if kind == "boolean" else floats.masked_fill(drawn < 0.4, HIDE)

    model = made(lambda m, x, mask: mask)
    check(model, (seeded(2, 6, 16), mask(2)), (seeded(3, 6, 16), mask(3)))


class Grouped(nn.Module):
    """Four heads of queries that share two of keys and values, under a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (4, 4)).transpose(1, 2)
        k, v = self.kv(x).unflatten(-1, (2, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True).transpose(1, 2).flatten(2)


def test_heads_that_share_keys_under_a_mask() -> None:
    masks = [torch.rand(rows, 1, 1, 6, generator=torch.Generator().manual_seed(rows)) > 0.5 for rows in (2, 3)]
    masks[1][0] = False
    check(Grouped().eval(), (seeded(2, 6, 16), masks[0]), (seeded(3, 6, 16), masks[1]))


@pytest.mark.parametrize("keys", [4, 6, 8])
def test_a_causal_mask_counts_from_the_first_of_both(keys: int) -> None:
    model = nn.Module()
    model.forward = lambda q, k: F.scaled_dot_product_attention(q, k, k * 2, is_causal=True)
    check(model, (seeded(2, 6, 4), seeded(2, keys, 4)), (seeded(3, 6, 4), seeded(3, keys, 4)))


def test_a_causal_mask_of_open_sizes_is_as_large_as_they_are() -> None:
    model = made(lambda m, x, _: None, is_causal=True)
    graph = trace(model, (seeded(2, 6, 16),), open_sizes=[(1,)])
    assert facts_of(graph).open_sizes == [(1,)]
    Canonicalize()(graph)
    for tokens in (6, 3, 9):
        x = seeded(3, tokens, 16)
        torch.testing.assert_close(graph(x), model(x), rtol=1e-5, atol=1e-5)


def test_weights_that_are_dropped_at_random_are_declined() -> None:
    graph = trace(made(lambda m, x, _: None, dropout_p=0.2), (seeded(2, 6, 16),))
    outcome = decompose_attention.apply(graph)
    assert outcome.count == 0
    assert "at random" in outcome.declined[0].reason


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("rows", ["constant", "boolean input", "float input"])
def test_rows_that_are_hidden_whole_are_zero_in_the_file(rows: str, tmp_path: Path) -> None:
    x, mask = seeded(8, 6, 16), torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(0)) > 0.4
    mask[:, :, 2] = False
    model = made(WHOLE["boolean"] if rows == "constant" else lambda m, x, mask: mask)
    floats = torch.zeros(8, 1, 6, 6).masked_fill(~mask, HIDE)
    inputs = {"x": x, **{"constant": {}, "boolean input": {"mask": mask}, "float input": {"mask": floats}}[rows]}
    graph = qpass.quantize_graph(model, [inputs], "w8a8", progress=False)
    path = qpass.export_onnx(graph, tmp_path / "model.onnx")
    report = qpass.verify_onnx(graph, path, inputs)
    assert report.passed, report
    assert facts_of(graph).report.output_sqnr_db > 30
