"""Constant masks in an index become the positions that they hold."""

from __future__ import annotations

import pytest
import torch

from qpass.graph.edit import aten, get_constant
from qpass.passes.rules.indices_from_mask import indices_from_mask
from tests.passes.rules.rule_case import Call, apply, seeded

MASK = torch.tensor([True, False, True, True])


def test_a_mask_behind_a_slice_becomes_positions() -> None:
    graph, changed = apply(indices_from_mask, Call(lambda m, x: x[:, m.mask], mask=MASK), seeded(2, 4, 3))
    assert changed == 1
    (index,) = [node for node in graph.graph.nodes if node.target is aten.index.Tensor]
    assert get_constant(graph, index.args[1][1]).tolist() == [0, 2, 3]  # type: ignore[union-attr]


def test_a_mask_of_two_dims_has_positions_for_each() -> None:
    mask = torch.tensor([[True, False], [False, True], [True, True], [False, False]])
    _, changed = apply(indices_from_mask, Call(lambda m, x: x[:, m.mask], mask=mask), seeded(2, 4, 2))
    assert changed == 1


def test_what_is_written_by_a_mask() -> None:
    def function(m: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten.index_put(x, [None, m.mask], torch.zeros(()))  # type: ignore[no-any-return]

    _, changed = apply(indices_from_mask, Call(function, mask=MASK), seeded(2, 4))
    assert changed == 1


@pytest.mark.parametrize("positions", [torch.tensor([0, 2]), torch.tensor([3, 3, 1])])
def test_positions_stay(positions: torch.Tensor) -> None:
    _, changed = apply(indices_from_mask, Call(lambda m, x: x[:, m.positions], positions=positions), seeded(2, 4, 3))
    assert changed == 0
