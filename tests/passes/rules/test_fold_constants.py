"""What depends on constants alone is one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten
from qpass.passes.rules.fold_constants import fold_constants
from tests.passes.rules.rule_case import Call, apply, count, seeded


def test_numbers_that_are_read_from_constants_are_written_out() -> None:
    def function(m: nn.Module, x: Tensor) -> Tensor:
        sizes = torch.zeros(2, dtype=torch.long)
        sizes[0], sizes[1] = 3, 4
        return x * (sizes.sum().item() + 1)

    graph, _ = apply(fold_constants, Call(function), seeded(2, 3))
    graph.graph.eliminate_dead_code()
    assert [node.args[1] for node in graph.graph.nodes if node.op == "call_function"] == [8]


def test_what_depends_on_constants_alone_becomes_one() -> None:
    model = Call(lambda m, x: F.linear(x, m.w, torch.cat([m.a, m.a * 2])), w=seeded(6, 4), a=seeded(3))
    graph, folded = apply(fold_constants, model, seeded(2, 4))
    assert folded == 1
    assert count(graph, aten.cat.default, aten.mul.Tensor) == 0


def test_randomness_and_inputs_stay() -> None:
    graph = trace(Call(lambda m, x: x * m.a + torch.rand_like(m.a), a=seeded(4)).eval(), (seeded(2, 4),))
    assert fold_constants.apply(graph).count == 0


def test_what_is_filled_in_place_is_folded_as_it_is_at_last() -> None:
    def sizes(m: nn.Module, x: Tensor) -> Tensor:
        table = torch.empty(2, 3)
        for row in range(2):
            table[row, 0] = row + 5
            table[row, 1:] = m.a[1:]
        table[..., 0] /= 4
        return x * table

    graph, _ = apply(fold_constants, Call(sizes, a=seeded(3)), seeded(2, 3))
    assert [node.target for node in graph.graph.nodes if node.op == "call_function"] == [aten.mul.Tensor]
    graph(seeded(2, 3))
    torch.testing.assert_close(graph(torch.ones(2, 3))[:, 0], torch.tensor([5 / 4, 6 / 4]))


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: ((t := m.a.clone())[:1].mul_(x.sum()), x * t[:1])[1],
        lambda m, x: ((t := m.a.clone()), (y := x * t), t[:1].mul_(2), y * t)[3],
    ],
    ids=["written from outside", "read before its last change"],
)
def test_constants_that_change_meanwhile_are_computed(function: Callable[..., Tensor]) -> None:
    graph, _ = apply(fold_constants, Call(function, a=seeded(3)), seeded(2, 3))
    once, twice = graph(seeded(2, 3)), graph(seeded(2, 3))
    torch.testing.assert_close(once, twice, rtol=0, atol=0)
