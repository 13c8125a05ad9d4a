"""Forwards that torch.export cannot follow are refused with what they do and what to write instead; the others are captured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qpass
from qpass.data import ModelInputs
from qpass.errors import TraceError, UnsupportedError
from tests.contracts.judge import judge


class Part(nn.Module):
    """Tokens (batch, 6, 8) and lengths (batch,) -> (batch, 4)."""

    def __init__(self, run: Callable[..., Tensor]) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layer, self.head = nn.Linear(8, 8), nn.Linear(8, 4)
        self.register_buffer("keep", torch.tensor([True, False, True, True, False, True]))
        self.register_buffer("some", torch.arange(8) < 5)
        self.register_buffer("places", torch.arange(6))
        self.register_buffer("length", torch.tensor([3]))
        self.run = run

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.run(self, x, lengths)


class Whole(nn.Module):
    def __init__(self, run: Callable[..., Tensor]) -> None:
        super().__init__()
        self.part = Part(run)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.part(x, lengths)


def call(seed: int, rows: int = 4) -> ModelInputs:
    generator = torch.Generator().manual_seed(seed)
    return ModelInputs((torch.randn(rows, 6, 8, generator=generator), torch.tensor([3, 2, 4, 1])[:rows]), {})


def int_of_values(part: Part, x: Tensor, lengths: Tensor) -> Tensor:
    n = int(lengths.max())
    return part.head(part.layer(x)[:, :n].mean(1))


def int_of_buffer(part: Part, x: Tensor, lengths: Tensor) -> Tensor:
    return part.head(part.layer(x)[:, : int(part.length)].mean(1))


def branch(part: Part, x: Tensor, lengths: Tensor) -> Tensor:
    y = part.layer(x)
    return part.head((y * 2 if lengths.max() > 3 else y).mean(1))


def printed(part: Part, x: Tensor, lengths: Tensor) -> Tensor:
    assert f"{float(x.sum()):.2f}"
    return part.head(part.layer(x).mean(1))


def write_data(part: Part, x: Tensor, lengths: Tensor) -> Tensor:
    y = part.layer(x)
    y.data[:, 0] = 0
    return part.head(y.mean(1))


def assign_data(part: Part, x: Tensor, lengths: Tensor) -> Tensor:
    y = part.layer(x)
    y.data = y.data * 2
    return part.head(y.mean(1))


def derivative(part: Part, x: Tensor, lengths: Tensor) -> Tensor:
    with torch.enable_grad():
        z = x.detach().requires_grad_()
        (g,) = torch.autograd.grad(part.layer(z).square().sum(), z)
    return part.head(g.mean(1))


def derivative_in_the_mode_of_the_caller(part: Part, x: Tensor, lengths: Tensor) -> Tensor:
    z = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(part.layer(z).square().sum(), z)
    return part.head(g.mean(1))


def array(part: Part, x: Tensor, lengths: Tensor) -> Tensor:
    return part.head(torch.from_numpy(part.layer(x).detach().numpy() * 2).mean(1))


def array_of_buffer(part: Part, x: Tensor, lengths: Tensor) -> Tensor:
    return part.head(part.layer(x).mean(1)) * torch.as_tensor(part.length.numpy() * 2)


REFUSED = {
    int_of_values: r"a tensor's values to a Python number.*drop int\(\)",
    int_of_buffer: r"a tensor's values to a Python number.*buffer, compute it in __init__ and keep the int",
    branch: r"control flow.*torch\.where.*submodules=",
    printed: r"a Python number, depends on a tensor's values",
    write_data: r"\.data.*write detach\(\) for \.data",
    assign_data: r"\.data.*write detach\(\) for \.data",
    derivative: r"torch\.autograd\.grad.*no derivatives in the forward",
    derivative_in_the_mode_of_the_caller: r"takes derivatives.*runs in torch\.no_grad\(\).*formulas",
    array: r"NumPy array.*torch's functions",
    array_of_buffer: r"NumPy array.*constant arrays in __init__",
}


@pytest.mark.parametrize("run", REFUSED, ids=lambda run: run.__name__)
def test_refused_with_a_way_out(run: Callable[..., Tensor]) -> None:
    with pytest.raises(TraceError, match=rf"Whole.*{REFUSED[run]}"):
        qpass.quantize_graph(Whole(run).eval(), [call(0)], "w8a8", progress=False)


@pytest.mark.parametrize("run", [int_of_values, branch, array], ids=lambda run: run.__name__)
def test_module_and_line_are_named(run: Callable[..., Tensor]) -> None:
    with pytest.raises(TraceError, match=r"Whole, module part, test_capture_errors\.py:\d+: torch\.export cannot capture"):
        qpass.quantize_graph(Whole(run).eval(), [call(0)], "w8a8", progress=False)


@pytest.mark.parametrize(
    "transform",
    [
        lambda part, x: torch.func.grad(lambda z: part.layer(z).square().sum())(x),
        lambda part, x: torch.func.jvp(part.layer, (x,), (x,))[1],
        lambda part, x: torch.func.vjp(part.layer, x)[1](x)[0],
        lambda part, x: torch.vmap(part.layer)(x),
        lambda part, x: torch.func.vmap(torch.func.grad(lambda z: part.layer(z).square().sum()))(x),
    ],
    ids=["grad", "jvp", "vjp", "vmap", "grad for each row"],
)
def test_transforms_are_refused_by_name(transform: Callable[..., Tensor]) -> None:
    model = Whole(lambda part, x, _: part.head(transform(part, x).mean(1)))
    with pytest.raises(UnsupportedError, match=r"a transform of torch\.func, such as vmap.*whole batch"):
        qpass.quantize_graph(model.eval(), [call(0)], "w8a8", progress=False)


@dataclass
class Answer:
    logits: Tensor


@pytest.mark.parametrize("answer", [Answer, lambda y: {"logits": {y}}], ids=["dataclass", "set"])
def test_an_output_whose_tensors_are_not_seen_is_named(answer: Callable[[Tensor], Any]) -> None:
    """torch's message has a link to functorch, and was taken for one of its transforms."""
    model = Whole(lambda part, x, _: answer(part.head(part.layer(x).mean(1))))
    with pytest.raises(
        TraceError, match=r"^Whole: .*returns an object .*(Answer|set).*NamedTuple or dict; .*register_dataclass"
    ):
        qpass.quantize_graph(model.eval(), [call(0)], "w8a8", progress=False)


MASKS: dict[str, Callable[[Part, Tensor], Tensor]] = {
    "a buffer": lambda part, y: y[:, part.keep],
    "its opposite": lambda part, y: y[:, ~part.keep],
    "compared": lambda part, y: y[:, part.places < 4],
    "indices": lambda part, y: y[:, part.keep.nonzero().squeeze(1)],
    "where": lambda part, y: y.index_select(1, torch.where(part.keep)[0]),
    "twice": lambda part, y: nn.functional.pad(y[:, part.keep][..., part.some], (0, 3)),
    "item as a size": lambda part, y: y[:, : part.length.max().item()],
}


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("name", MASKS)
def test_constant_masks_choose_tokens(name: str, tmp_path: Path) -> None:
    model = Whole(lambda part, x, _: part.head(MASKS[name](part, part.layer(x)).mean(1))).eval()
    judge(model, [call(0), call(1)], [call(2, 1), call(3, 3)], folder=tmp_path)


def test_the_greatest_length_of_a_batch_may_be_a_size(tmp_path: Path) -> None:
    model = Whole(lambda part, x, t: part.head(part.layer(x)[:, : t.max().item()].mean(1))).eval()
    judge(model, [call(seed) for seed in range(6)], [call(7, 1), call(8, 3)], folder=tmp_path)
