"""Products that compute positions and angles stay float and are listed; attention and activations are not mistaken for them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from qpass.config import QuantConfig
from qpass.graph.capture.trace import trace
from qpass.graph.edit import get_plan
from qpass.passes import Annotate, Canonicalize
from qpass.passes.analysis.positions import ANGLES, POSITIONS
from qpass.passes.plan import Declined, LayerPlan


class Net(nn.Module):
    """A Linear over tokens (B, 6, 8) and what ``make(module, x, p)`` adds; p is positions."""

    def __init__(self, make: Callable[..., Tensor]) -> None:
        super().__init__()
        self.make, self.first, self.second, self.last = make, nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.points = nn.Linear(2, 8)
        self.register_buffer("frequencies", torch.arange(1, 9) / 9)
        self.register_buffer("b", torch.randn(2, 8, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor, p: Tensor | None = None) -> Tensor:
        return self.last(x + self.make(self, x, p))


def reasons(make: Callable[..., Tensor], *inputs: Tensor) -> dict[str, str | None]:
    """Returns for each product but the last Linear why it stays float, None where it does not; by operator and path."""
    graph = trace(Net(make).eval(), inputs or (torch.randn(2, 6, 8),))
    Canonicalize()(graph)
    Annotate(QuantConfig.from_any("w8a8"))(graph)
    plans = [plan for node in graph.graph.nodes if (plan := get_plan(node)) is not None and plan.kind != "softmax"]
    assert isinstance(plans[-1], LayerPlan)
    return {f"{plan.kind} {plan.path}".strip(): plan.reason if isinstance(plan, Declined) else None for plan in plans[:-1]}


def rotary(m: nn.Module, x: Tensor, p: Tensor | None) -> Tensor:
    """As transformers writes it: (1, 4, 1) frequencies, expanded, times (B, 1, N) positions."""
    positions = torch.arange(x.shape[1], device=x.device) if p is None else p
    positions = positions[None] if positions.dim() == 1 else positions
    table = m.frequencies[None, :, None].expand(x.shape[0], 8, 1) @ positions[:, None].float().expand(x.shape[0], 1, 6)
    return table.transpose(1, 2).cos()


def turn(m: nn.Module, x: Tensor, p: Tensor) -> Tensor:
    """Twice turned coordinates."""
    return (p @ m.b[:, :2].contiguous() @ m.b).sin()


COORDINATES = torch.rand(2, 6, 2)
X = torch.randn(2, 6, 8)

STAY_FLOAT: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...], str]] = {
    "rotary of numbers of tokens": (lambda m, x, p: rotary(m, x, None), (X,), POSITIONS),
    "rotary of whole numbers": (rotary, (X, torch.arange(6).repeat(2, 1)), POSITIONS),
    "rotary of floats": (rotary, (X, torch.arange(6).repeat(2, 1).float()), ANGLES),
    "Fourier features": (lambda m, x, p: torch.cat([(y := 2 * math.pi * (p @ m.b[:, :4])).sin(), y.cos()], -1), (X, COORDINATES), ANGLES),
    "by a Linear": (lambda m, x, p: m.points(2 * p - 1).sin(), (X, COORDINATES), ANGLES),
    "twice turned": (turn, (X, COORDINATES), ANGLES),
    "an outer product": (lambda m, x, p: (p[..., :1] @ m.frequencies[None]).cos(), (X, COORDINATES), ANGLES),
    "queries without an input": (lambda m, x, p: m.second(m.frequencies.expand(x.shape[0], 6, 8)), (X,), POSITIONS),
}  # fmt: skip


@pytest.mark.parametrize("case", STAY_FLOAT)
def test_positions_and_angles_stay_float(case: str) -> None:
    make, inputs, reason = STAY_FLOAT[case]
    found = reasons(make, *inputs)
    assert set(found.values()) <= {reason}


@pytest.mark.parametrize("power", [1, 2])
def test_an_exponential_of_positions_stays_float(power: int) -> None:
    assert reasons(lambda m, x, p: (-m.points(p).pow(power)).exp(), X, COORDINATES) == {"linear points": ANGLES}


ARE_QUANTIZED: dict[str, Callable[..., Tensor]] = {
    "attention": lambda m, x, p: (m.first(x) @ m.second(x).mT).softmax(-1) @ x,
    "attention by exponentials": lambda m, x, p: (e := (m.first(x) @ m.second(x).mT).exp()) @ x / e.sum(-1, keepdim=True),
    "attention of the input by exponentials": lambda m, x, p: (e := (x @ x.mT).exp()) @ x / e.sum(-1, keepdim=True),
    "a sigmoid by exponentials": lambda m, x, p: 1 / (1 + (-m.first(x)).exp()),
    "GELU": lambda m, x, p: nn.functional.gelu(m.first(x)),
    "also read elsewhere": lambda m, x, p: (y := m.first(x)).sin() + y,
    "an exponential of what was learned": lambda m, x, p: m.second(m.first(x)).exp(),
}


@pytest.mark.parametrize("make", ARE_QUANTIZED.values(), ids=ARE_QUANTIZED)
def test_attention_and_activations_are_no_angles(make: Callable[..., Tensor]) -> None:
    found = reasons(make)
    assert found
    assert set(found.values()) <= {None}


class Words(nn.Module):
    """Takes whole numbers alone: words, or one of ten."""

    def __init__(self, looked_up: bool) -> None:
        super().__init__()
        self.looked_up, self.table, self.linear = looked_up, nn.Embedding(10, 10), nn.Linear(10, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.linear(self.table(ids) if self.looked_up else (ids[..., None] == torch.arange(10)).float())


@pytest.mark.parametrize("looked_up", [True, False])
def test_whole_numbers_are_data_where_they_are_looked_up_or_all_there_is(looked_up: bool) -> None:
    graph = trace(Words(looked_up).eval(), (torch.randint(10, (2, 6)),))
    Canonicalize()(graph)
    Annotate(QuantConfig.from_any("w8a8"))(graph)
    assert [type(plan) for node in graph.graph.nodes if (plan := get_plan(node))] == [LayerPlan]


def test_words_that_are_looked_up_in_a_constant_are_data_beside_an_image() -> None:
    class Captioned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image, self.text = nn.Linear(8, 4), nn.Linear(8, 4)
            self.register_buffer("words", torch.randn(10, 8))

        def forward(self, image: Tensor, words: Tensor) -> Tensor:
            return self.image(image) + self.text(self.words[words])

    graph = trace(Captioned().eval(), (torch.randn(2, 6, 8), torch.randint(10, (2, 6))))
    Canonicalize()(graph)
    Annotate(QuantConfig.from_any("w8a8"))(graph)
    assert [type(plan) for node in graph.graph.nodes if (plan := get_plan(node))] == [LayerPlan, LayerPlan]


def test_images_may_come_as_bytes() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    model.forward = lambda x: model[1](model[0](x).float() / 255)
    graph = trace(model.eval(), (torch.randint(256, (2, 3, 4), dtype=torch.uint8),))
    Canonicalize()(graph)
    Annotate(QuantConfig.from_any("w8a8"))(graph)
    assert [type(plan) for node in graph.graph.nodes if (plan := get_plan(node))] == [LayerPlan]
