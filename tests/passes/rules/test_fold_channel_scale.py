"""A factor for each channel goes into the Linear before it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qpass.graph.edit import aten, calls
from qpass.passes.rules.fold_channel_scale import fold_channel_scale
from tests.passes.rules.rule_case import Call, apply, count, seeded


@pytest.mark.parametrize("shape", [(6,), (1, 1, 6)])
def test_a_factor_for_each_channel_goes_into_the_linear(shape: tuple[int, ...]) -> None:
    linear = lambda m, x: F.linear(x, m.w, m.b) * m.scale  # noqa: E731
    graph, folded = apply(fold_channel_scale, Call(linear, w=seeded(6, 4), b=seeded(6), scale=seeded(*shape)), seeded(2, 3, 4))
    assert folded == 1
    assert count(graph, aten.mul.Tensor) == 0


def test_one_channel_times_a_number() -> None:
    model = Call(lambda m, x: F.linear(x, m.w, m.b) * m.scale, w=seeded(1, 4), b=seeded(1), scale=torch.tensor(2.0))
    graph, folded = apply(fold_channel_scale, model, seeded(2, 3, 4))
    assert folded == 1
    assert count(graph, aten.mul.Tensor) == 0


def test_the_factor_may_come_first_and_the_bias_be_missing() -> None:
    model = Call(lambda m, x: m.scale * F.linear(x, m.w), w=seeded(6, 4), scale=seeded(6))
    graph, folded = apply(fold_channel_scale, model, seeded(2, 4))
    assert folded == 1
    assert next(calls(graph, aten.linear.default)).args[2:] == (None,)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: F.linear(x, m.w) * m.token,
        lambda m, x: (y := F.linear(x, m.w)) * m.scale + y,
        lambda m, x: F.linear(x, m.w) * x.mean(),
        lambda m, x: F.linear(x, m.w) * m.tall,
    ],
    ids=["a factor for each token", "an output read twice", "a factor that is no constant", "a factor that adds dims"],
)
def test_other_factors_stay(function: Callable[..., Tensor]) -> None:
    constants = {"w": seeded(6, 4), "scale": seeded(6), "token": seeded(6, 1), "tall": seeded(2, 1, 1, 6)}
    graph, folded = apply(fold_channel_scale, Call(function, **constants), seeded(2, 6, 4))
    assert folded == 0
    assert count(graph, aten.mul.Tensor) == 1
