"""Rows that the output does not read are not computed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

import qpass
from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten, calls, module_path, shape_of
from qpass.passes import Canonicalize, NarrowRows
from tests.contracts.judge import judge


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    """The same initial weights in every run."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def seeded(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def canonical(model: nn.Module, x: Tensor) -> fx.GraphModule:
    graph = trace(model.eval(), (x,))
    Canonicalize()(graph)
    return graph


def narrowed(model: nn.Module, x: Tensor) -> fx.GraphModule:
    """Returns the narrowed graph, which gives the model's own outputs, on another number of samples too."""
    graph = canonical(model, x)
    NarrowRows().run(graph)
    for samples in (x, x[:1], x.repeat(2, *[1] * (x.dim() - 1))):
        torch.testing.assert_close(graph(samples), model(samples), rtol=1e-5, atol=1e-5)
    assert not NarrowRows().run(graph), "a second run finds nothing"
    return graph


def rows_of_linears(graph: fx.GraphModule) -> dict[str, int]:
    return {
        module_path(node): (shape_of(node) or ())[-2]
        for node in calls(graph, aten.linear.default)
        if len(shape_of(node) or ()) > 2
    }


def test_the_last_block_of_a_classifier_has_one_query(vit: nn.Module, images: Tensor) -> None:
    graph = narrowed(vit, images)
    tokens = (images.shape[-1] // 8) ** 2 + 1
    rows = rows_of_linears(graph)
    assert {name: count for name, count in rows.items() if count == 1} == {
        "blocks.1.attn.proj": 1, "blocks.1.mlp.fc1": 1, "blocks.1.mlp.fc2": 1,
    }  # fmt: skip
    assert {count for name, count in rows.items() if name.startswith("blocks.0")} == {tokens}
    first, last = calls(graph, aten.softmax.int)
    assert [(shape_of(node) or ())[-2] for node in (first, last)] == [tokens, 1]


def test_a_mean_over_tokens_needs_all(images: Tensor) -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=48, depth=1, global_pool="avg")
    assert not NarrowRows().run(canonical(model, images))


class Tokens(nn.Module):
    """Attention and an MLP over tokens (rows, 9, 16), and what the output takes of them."""

    def __init__(self, take: str) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))
        self.norm, self.up, self.down, self.head = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 5)
        self.register_buffer("bias", seeded(2, 9, 9))
        self.register_buffer("position", seeded(1, 9, 16))
        self.take = take

    def forward(self, x: Tensor) -> Tensor:
        split = lambda t: t.unflatten(-1, (2, 8)).transpose(1, 2)  # noqa: E731
        x = x + self.position
        logits = split(self.q(x)) @ split(self.k(x)).mT / 8**0.5 + self.bias
        x = x + self.o((logits.softmax(-1) @ split(self.v(x))).transpose(1, 2).flatten(2))
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        if self.take == "two tokens":
            return self.head(x[:, 0]) + self.head(x[:, 2])
        if self.take == "a slice":
            return self.head(self.norm(x[:, 1:3]).mean(1))
        if self.take == "the last":
            return self.head(x[:, -1])
        if self.take == "one and the mean":
            return self.head(x[:, 0] + x.mean(1))
        return self.head(x[:, :8].mean(1))


@pytest.mark.parametrize(
    ("take", "rows"), [("two tokens", 3), ("a slice", 2), ("the last", 1), ("one and the mean", 9), ("most", 9)]
)
def test_as_many_rows_as_the_output_reads(take: str, rows: int) -> None:
    graph = narrowed(Tokens(take), seeded(4, 9, 16))
    linears = rows_of_linears(graph)
    assert {name: linears[name] for name in ("o", "up", "down")} == dict.fromkeys(("o", "up", "down"), rows)
    assert linears["k"] == linears["v"] == 9
    assert linears["q"] == rows


class DifferentRows(nn.Module):
    """Two Linears with one operand, of which each needs another row."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.before = nn.Linear(16, 5), nn.Linear(16, 5), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.before(x))
        return self.first(x)[:, 1] + 10 * self.second(x)[:, 3]


def test_a_quantizer_of_rows_that_two_layers_share() -> None:
    model, x = DifferentRows().eval(), seeded(32, 9, 16)
    graph = qpass.quantize_graph(model, [x], "w8a8", progress=False)
    error = graph(x) - model(x)
    assert error.square().mean() < 1e-3 * model(x).square().mean()


STEPS = st.sampled_from(["linear", "norm", "gelu", "sum", "position", "attention", "turned", "first doubled", "mixed"])
ENDS = st.lists(st.tuples(st.integers(-9, 8), st.integers(1, 4)), min_size=1, max_size=3)


class Steps(nn.Module):
    """Steps over tokens (rows, 9, 16), and the sum of some slices of the result."""

    def __init__(self, steps: list[str], ends: list[tuple[int, int]]) -> None:
        super().__init__()
        self.steps, self.ends = steps, ends
        self.linears, self.norm, self.mix = nn.ModuleList(nn.Linear(16, 16) for _ in steps), nn.LayerNorm(16), nn.Linear(9, 9)
        self.register_buffer("position", seeded(9, 16))

    def forward(self, x: Tensor) -> Tensor:
        first = x
        for step, linear in zip(self.steps, self.linears, strict=True):
            if step == "attention":
                x = first + (linear(x) @ x.mT / 4).softmax(-1) @ x
            else:
                x = {
                    "linear": lambda x, linear=linear: linear(x),
                    "norm": lambda x: self.norm(x),
                    "gelu": lambda x: F.gelu(x),
                    "sum": lambda x: x + first,
                    "position": lambda x: x * self.position,
                    "turned": lambda x, linear=linear: linear(
                        x.unflatten(-1, (2, 8)).permute(0, 2, 1, 3).transpose(1, 2).flatten(2)
                    ),
                    "first doubled": lambda x: x + x[:, :1],
                    "mixed": lambda x: self.mix(x.mT).mT,
                }[step](x)
        return sum(x[:, start:][:, :count].sum(1) for start, count in self.ends)  # type: ignore[return-value]


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(STEPS, min_size=1, max_size=6), ENDS)
def test_any_network_keeps_its_outputs(steps: list[str], ends: list[tuple[int, int]]) -> None:
    narrowed(Steps(steps, ends), seeded(3, 9, 16))


def test_tokens_of_any_number_stay_whole() -> None:
    model = Tokens("the last").eval()
    model.position, model.bias = torch.zeros(1, 1, 16), torch.zeros(2, 1, 1)
    batches = [{"x": seeded(8, tokens, 16)} for tokens in (6, 9)]
    graph = qpass.quantize_graph(model, batches, "w8a8", dynamic_shapes={"x": {1: torch.export.Dim.AUTO}}, progress=False)
    for tokens in (5, 9, 12):
        x = seeded(8, tokens, 16)
        error = graph(x) - model(x)
        assert error.square().mean() < 1e-3 * model(x).square().mean()


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe", ["w8a8", "w4a4", "codebook-w4a4", {"preset": "w4a4", "polish": "quick", "reconstruction": {"steps": 4}}]
)
def test_the_whole_way(recipe: object, vit: nn.Module, images: Tensor, tmp_path: Path) -> None:
    judge(vit, [images, images.flip(0)], [images[:5]], config=recipe, decibels=3.0, folder=tmp_path)


@pytest.mark.parametrize("recipe", ["w8a8", "repq-vit-w4a4"])
def test_quantizers_are_those_of_all_rows(recipe: str, vit: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier passes fit to all rows: the quantized network is the same."""
    few = qpass.quantize_graph(vit, [images], recipe, progress=False)
    monkeypatch.setattr(NarrowRows, "run", lambda self, graph_module: False)
    all_rows = qpass.quantize_graph(vit, [images], recipe, progress=False)
    assert few.state_dict().keys() == all_rows.state_dict().keys()
    assert all(torch.equal(tensor, few.state_dict()[name]) for name, tensor in all_rows.state_dict().items())
    torch.testing.assert_close(few(images), all_rows(images), rtol=1e-5, atol=1e-5)
    layers = qpass.quantization_report(few).layers
    assert [layer.path for layer in layers] == [layer.path for layer in qpass.quantization_report(all_rows).layers]
