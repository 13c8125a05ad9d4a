"""Softmax in other words becomes a Softmax."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from qpass.graph.edit import aten
from qpass.passes.rules.softmax_from_exp import softmax_from_logarithm, softmax_from_quotient, softmax_from_special
from tests.passes.rules.rule_case import Call, apply, count, seeded

Function = Callable[[object, Tensor], Tensor]


def quotient(exponent: Callable[[Tensor], Tensor], dim: int = -1) -> Function:
    return lambda m, x: (e := exponent(x).exp()) / e.sum(dim, keepdim=True)


@pytest.mark.parametrize(
    "function",
    [
        quotient(lambda x: x),
        quotient(lambda x: x - x.amax(-1, keepdim=True)),
        quotient(lambda x: x - x.max(-1, keepdim=True).values),
        quotient(lambda x: x - x.amax(1, keepdim=True), dim=1),
        quotient(lambda x: x - x.amax(2, keepdim=True)),
    ],
    ids=["plain", "less the greatest", "less the greatest of two", "over another dim", "by its number"],
)
def test_a_quotient_of_exponentials(function: Function) -> None:
    graph, changed = apply(softmax_from_quotient, Call(function), seeded(2, 3, 5))
    assert changed == 1
    assert count(graph, aten.softmax.int) == 1
    assert count(graph, aten.div.Tensor, aten.exp.default, aten.sub.Tensor) == 0


def test_what_is_subtracted_over_another_dim_stays_subtracted() -> None:
    graph, changed = apply(softmax_from_quotient, Call(quotient(lambda x: x - x.amax(1, keepdim=True))), seeded(2, 3, 5))
    assert changed == 1
    assert count(graph, aten.sub.Tensor) == 1


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x.exp() / (x * 2).exp().sum(-1, keepdim=True),
        lambda m, x: x.exp() / x.exp().sum((1, 2), keepdim=True),
        lambda m, x: (e := x.transpose(0, 2).exp()) / e.sum(0),
        lambda m, x: x / x.sum(-1, keepdim=True),
    ],
    ids=["other values", "two dims", "the dim is dropped", "no exponential"],
)
def test_other_quotients_stay(function: Function) -> None:
    graph, changed = apply(softmax_from_quotient, Call(function), seeded(2, 3, 2))
    assert changed == 0
    assert count(graph, aten.div.Tensor) == 1


def test_the_exponential_of_a_logarithm() -> None:
    graph, changed = apply(softmax_from_logarithm, Call(lambda m, x: x.log_softmax(1).exp()), seeded(2, 3, 5))
    assert changed == 1
    assert count(graph, aten.exp.default, aten.log_softmax.int) == 0
    _, changed = apply(softmax_from_logarithm, Call(lambda m, x: x.sigmoid().exp()), seeded(2, 3))
    assert changed == 0


def test_the_special_function() -> None:
    graph, changed = apply(softmax_from_special, Call(lambda m, x: torch.special.softmax(x, 1)), seeded(2, 3, 5))
    assert changed == 1
    assert count(graph, aten.softmax.int) == 1
