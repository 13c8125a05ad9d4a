"""Outputs, buffers and layers of unusual kinds, whole and in files."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import qpass
from qpass import QPassError
from tests.contracts.judge import judge, quantized, result_or_refusal
from tests.contracts.unusual import Net, images, net


class Named(NamedTuple):
    """What a forward returns."""

    logits: Tensor
    hidden: tuple[Tensor, Tensor]


def named(s: Net, x: Tensor) -> Named:
    t = s.att(s.tok(x))
    return Named(s.h(t.mean(1)), (t, t))


def nested(s: Net, x: Tensor) -> dict[str, Any]:
    t = s.att(s.tok(x))
    return {"out": [s.h(t.mean(1)), {"tokens": t}], "first": t[:, 0]}


def the_input_too(s: Net, x: Tensor) -> tuple[Tensor, Tensor]:
    return Net.forward(s, x), x


def numbers_and_shapes(s: Net, x: Tensor) -> tuple[Tensor, int, float, None]:
    return Net.forward(s, x), 7, 0.5, None


def a_shape(s: Net, x: Tensor) -> tuple[Tensor, int]:
    return Net.forward(s, x), x.shape[-1]


def same_twice(s: Net, x: Tensor) -> tuple[Tensor, Tensor]:
    y = Net.forward(s, x)
    return y, y


def minus_infinity(s: Net, x: Tensor) -> Tensor:
    y = Net.forward(s, x)
    return y.masked_fill(torch.tensor([False, True, False, False, True]), float("-inf"))


def a_constant_too(s: Net, x: Tensor) -> tuple[Tensor, Tensor]:
    return Net.forward(s, x), torch.arange(3)


@pytest.mark.slow(after=1)
@pytest.mark.parametrize(
    "forward", [named, nested, the_input_too, numbers_and_shapes, a_shape, same_twice, minus_infinity, a_constant_too]
)
def test_an_output_of_an_unusual_kind(forward: Callable[..., Any], tmp_path: Path) -> None:
    judge(net(forward), [images(16), images(16, 1)], [images(5, 2)], folder=tmp_path)


def _pixels(s: Net) -> None:
    s.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6])[:, None, None], persistent=False)
    s.register_buffer("ids", torch.arange(16)[None], persistent=False)
    s.positions = nn.Embedding(16, 32)


def test_buffers_that_are_not_persistent_are_saved(tmp_path: Path) -> None:
    def forward(s: Net, x: Tensor) -> Tensor:
        return s.h(s.att(s.tok(x - s.mean) + s.positions(s.ids)).mean(1))

    judge(net(forward, init=_pixels), [images(16), images(16, 1)], [images(5, 2)], folder=tmp_path)


class Sized(nn.Module):
    """Positions that hold for one number of tokens, behind a condition on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.part = Positions()

    def forward(self, t: Tensor) -> Tensor:
        return self.part(t).mean(1) if t.sum().isfinite().item() else t.mean(1)


class Positions(nn.Module):
    """Adds positions for 6 tokens, or nothing where there are others."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.positions = nn.Linear(32, 32), nn.Parameter(torch.randn(6, 32))

    def forward(self, t: Tensor) -> Tensor:
        return self.layer(t + self.positions) if t.shape[1] == 6 else self.layer(t)


def _tokens(count: int, seed: int) -> Tensor:
    return torch.randn(8, count, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("travel", ["as it is", "deepcopy", "saved"])
def test_a_part_refuses_other_sizes_however_it_travelled(travel: str, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Sized().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = qpass.quantize_graph(model, [_tokens(6, k) for k in range(3)], submodules=["part"], progress=False)
    part = graph.get_submodule("part")
    if travel == "deepcopy":
        part = copy.deepcopy(part)
    if travel == "saved":
        part = qpass.load(qpass.save(part, tmp_path / "part.safetensors"))
    found, refusal = result_or_refusal(lambda: part(_tokens(9, 5)))
    if not refusal:  # where the part took other sizes, it must be right for them
        wanted = model.part(_tokens(9, 5))
        assert (found - wanted).norm() < 0.05 * wanted.norm()


def test_a_quantized_graph_is_not_quantized_again() -> None:
    graph = quantized(net(), [images(8)])
    with pytest.raises(QPassError, match="quantized"):
        quantized(graph, [images(8)])


def test_a_network_with_nothing_to_quantize_is_refused_or_said() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()).eval()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        _, refusal = result_or_refusal(lambda: qpass.quantize_graph(model, [images(8)], progress=False))
    assert any("quantize" in message for message in (refusal, *(str(warning.message) for warning in said)))
