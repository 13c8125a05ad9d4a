from __future__ import annotations

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
from qpass.passes import Canonicalize, RotateResidual
from qpass.passes.rotate_residual import rotation_around_ones
from tests.models import small_vit


def seeded(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def shaken(model: nn.Module) -> nn.Module:
    """Gives every parameter values of its own: LayerNorms with γ = 1 and β = 0 would hide mistakes."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def canonical(model: nn.Module, x: Tensor) -> fx.GraphModule:
    graph = trace(model, (x,))
    Canonicalize()(graph)
    return graph


def check_computes(graph: fx.GraphModule, model: nn.Module, x: Tensor) -> None:
    torch.testing.assert_close(graph(x).double(), model.double()(x.double()), rtol=1e-4, atol=1e-4)


def stream_inputs(graph: fx.GraphModule, x: Tensor) -> list[Tensor]:
    """Returns what the LayerNorms read."""
    read: list[Tensor] = []

    class Record(fx.Interpreter):
        def call_function(self, target: object, args: tuple[Tensor, ...], kwargs: dict[str, object]) -> object:
            if target is aten.layer_norm.default:
                read.append(args[0])
            return super().call_function(target, args, kwargs)  # type: ignore[arg-type]

    Record(graph).run(x)
    return read


@given(size=st.integers(2, 40))
def test_the_rotation_is_orthonormal_and_leaves_ones_where_they_are(size: int) -> None:
    matrix = rotation_around_ones(size)
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(matrix.sum(1), torch.ones(size, dtype=torch.float64), rtol=0, atol=1e-12)


class Stream(nn.Module):
    """A pre-norm network of two branches; a function may change what goes on."""

    def __init__(
        self, width: int = 8, *, bias: bool = True, change: Callable[[nn.Module, Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.change = change
        self.embed, self.head = nn.Linear(6, width, bias=bias), nn.Linear(width, 5, bias=bias)
        self.position, self.token = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, 1, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.into = nn.ModuleList(nn.Linear(width, 2 * width, bias=bias) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(2 * width, width, bias=bias) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.position
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        for norm, into, out in zip(self.norms[:2], self.into, self.out, strict=True):
            x = x + out(F.relu(into(norm(x))))
        if self.change is not None:
            x = self.change(self, x)
        return self.head(self.norms[2](x).mean(1))


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(width=st.sampled_from([2, 7, 8, 12]), bias=st.booleans())
def test_the_network_computes_what_it_computed_in_other_coordinates(width: int, bias: bool) -> None:
    model = shaken(Stream(width, bias=bias))
    x = seeded(3, 4, 6)
    graph = canonical(model, x)
    before = stream_inputs(graph, x)
    assert RotateResidual()(graph)
    check_computes(graph, model, x)
    rotation = rotation_around_ones(width).float()
    for old, new in zip(before, stream_inputs(graph, x), strict=True):
        torch.testing.assert_close(new, old @ rotation.T, rtol=1e-4, atol=1e-4)
    assert not facts_of(graph).unrotated
    assert not RotateResidual()(graph), "once is enough"


def test_an_outlier_spreads() -> None:
    model = shaken(Stream(32))
    with torch.no_grad():
        for layer in (model.embed, *model.out):
            layer.weight[5] *= 100
    x = seeded(3, 4, 6)
    graph = canonical(model, x)
    RotateResidual()(graph)
    for values in stream_inputs(graph, x):
        spread = values.flatten(0, -2).std(0)
        assert spread.max() / spread.median() < 5, "one channel was a hundred times as great"


def test_a_vision_transformer_with_its_patch_embedding(images: Tensor) -> None:
    model = shaken(small_vit())
    graph = canonical(model, images)
    assert RotateResidual()(graph)
    assert not facts_of(graph).unrotated
    check_computes(graph, model, images)


class Merging(nn.Module):
    """Two stages; between them four tokens become one, whose LayerNorm sees the channels of all four."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out, self.merge, self.head = nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(16, 8), nn.Linear(8, 3)
        self.norm, self.merged, self.last = nn.LayerNorm(4), nn.LayerNorm(16), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.out(self.norm(x.roll(1, 1)))
        x = F.pad(x, (0, 0, 0, 1)).unflatten(1, (-1, 4)).flatten(2)
        return self.head(self.last(self.merge(self.merged(x))))


def test_merged_tokens_are_turned_one_by_one() -> None:
    model = shaken(Merging())
    x = seeded(2, 7, 6)
    graph = canonical(model, x)
    widths = [values.shape[-1] for values in stream_inputs(graph, x)]
    assert widths == [4, 16, 8]
    before = stream_inputs(graph, x)[1]
    assert RotateResidual()(graph)
    assert not facts_of(graph).unrotated
    check_computes(graph, model, x)
    turned = before.unflatten(-1, (4, 4)) @ rotation_around_ones(4).float().T
    torch.testing.assert_close(stream_inputs(graph, x)[1], turned.flatten(-2), rtol=1e-4, atol=1e-4)


#: A change of the stream, and the operator that the first reason names.
CHANGES = {
    "mul": (lambda m, x: x * m.token, "mul (mul) reads it"),
    "relu": (lambda m, x: F.relu(x), "relu (relu_2) reads it"),
    "transpose": (
        lambda m, x: x + x[:, :1].transpose(1, 2).flatten(1)[:, None].flip(-1),
        "transpose (transpose) reads it",
    ),
    "spreads": (lambda m, x: x + x.mean(-1, keepdim=True), "mean (mean) reads it"),
    "layer_norm": (lambda m, x: x + m.norms[0](x), "add (add_3) reads a LayerNorm's output"),
    "cat": (lambda m, x: torch.cat([x[..., 1:], x[..., :1]], -1), "slice (slice_1) reads it"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_stream_that_more_than_sums_go_into_stays(name: str) -> None:
    change, expected = CHANGES[name]
    model = shaken(Stream(change=change))
    x = seeded(3, 4, 6)
    graph = canonical(model, x)
    assert not RotateResidual()(graph)
    reasons = [reason for what, _, reason in facts_of(graph).unrotated if what == "residual stream"]
    assert reasons[0] == expected
    check_computes(graph, model, x)


def test_a_stream_that_the_model_returns_stays() -> None:
    class Features(Stream):
        def forward(self, x: Tensor) -> Tensor:
            return self.norms[0](self.embed(x))

    x = seeded(3, 4, 6)
    graph = canonical(shaken(Features()), x)
    assert not RotateResidual()(graph)
    ((_, path, reason),) = facts_of(graph).unrotated
    assert (path, reason) == ("norms.0", "the model's output reads a LayerNorm's output")


def test_layers_that_share_a_weight_are_turned_each_for_itself() -> None:
    class Shared(Stream):
        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            x = x + self.out[0](self.into[0](self.norms[0](x)))
            return self.head(self.norms[1](x + self.out[0](self.into[0](self.norms[2](x)))))

    model = shaken(Shared())
    x = seeded(3, 4, 6)
    graph = canonical(model, x)
    assert RotateResidual()(graph)
    check_computes(graph, model, x)
    linears = list(calls(graph, aten.linear.default))
    assert all(get_constant(graph, linear.args[1]) is not None for linear in linears)
