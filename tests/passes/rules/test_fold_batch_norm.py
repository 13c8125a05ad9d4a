"""A BatchNorm goes into the layer before it."""

from __future__ import annotations

import pytest
from torch import nn

from qpass.graph.edit import aten
from qpass.passes.rules.fold_batch_norm import fold_batch_norm
from tests.passes.rules.rule_case import Call, apply, count, seeded


def uneven(channels: int, kind: type[nn.Module]) -> nn.Module:
    norm = kind(channels)
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.normal_(norm.bias)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return norm


@pytest.mark.parametrize("bias", [True, False])
def test_convolution(bias: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3, bias=bias), uneven(5, nn.BatchNorm2d))
    graph, done = apply(fold_batch_norm, model, seeded(2, 3, 6, 6))
    assert done == 1
    assert count(graph, aten.batch_norm.default) == 0


def test_linear_over_merged_tokens() -> None:
    linear, norm = nn.Linear(4, 6), uneven(6, nn.BatchNorm1d)
    model = Call(lambda m, x: norm(linear(x).flatten(0, 1)).unflatten(0, (-1, 3)))
    model.linear, model.norm = linear, norm
    graph, done = apply(fold_batch_norm, model, seeded(2, 3, 4))
    assert done == 1
    assert count(graph, aten.batch_norm.default) == 0


@pytest.mark.parametrize(("move", "folds"), [("reshape", 0), ("flatten", 1), ("transpose", 0)])
def test_equal_sizes_are_told_apart(move: str, folds: int) -> None:
    """Channels, rows and columns are four each: what a dim is shows in where its values come from."""
    moves = {
        "reshape": lambda y: y.permute(0, 2, 3, 1).reshape(-1, 4, 4),
        "flatten": lambda y: y.flatten(2),
        "transpose": lambda y: y.flatten(2).transpose(1, 2).reshape(-1, 4, 4),
    }
    model = Call(lambda m, x: m.norm(moves[move](m.conv(x))))
    model.conv, model.norm = nn.Conv2d(3, 4, 1), uneven(4, nn.BatchNorm1d)
    _, done = apply(fold_batch_norm, model, seeded(2, 3, 4, 4))
    assert done == folds


def test_a_layer_with_another_reader_stays() -> None:
    linear, norm = nn.Linear(4, 6), uneven(6, nn.BatchNorm1d)
    model = Call(lambda m, x: (lambda y: norm(y) + y)(linear(x)))
    model.linear, model.norm = linear, norm
    _, done = apply(fold_batch_norm, model, seeded(3, 4))
    assert done == 0
