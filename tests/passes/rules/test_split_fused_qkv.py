"""A fused projection is split before its heads are moved."""

from __future__ import annotations

import pytest
import torch.nn.functional as F
from torch import Tensor, nn

from qpass.graph.edit import aten
from qpass.passes.rules.split_fused_qkv import split_fused_qkv
from tests.passes.rules.rule_case import Call, apply, count, seeded


@pytest.mark.parametrize("parts", [2, 3])
def test_heads_are_moved_after_the_split(parts: int) -> None:
    def function(m: nn.Module, x: Tensor) -> Tensor:
        found = F.linear(x, m.w).reshape(x.shape[0], 5, parts, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        return sum(part * (i + 1) for i, part in enumerate(found))

    graph, done = apply(split_fused_qkv, Call(function, w=seeded(parts * 8, 6)), seeded(2, 5, 6))
    assert done == 1
    assert count(graph, aten.unbind.int) == 0
    assert count(graph, aten.chunk.default) == 1
    assert count(graph, aten.permute.default) == parts


def test_parts_that_do_not_lie_side_by_side_stay() -> None:
    def function(m: nn.Module, x: Tensor) -> Tensor:
        a, b = x.reshape(x.shape[0], 5, 4, 2).permute(3, 0, 1, 2).unbind(0)
        return a - b

    _, done = apply(split_fused_qkv, Call(function), seeded(2, 5, 8))
    assert done == 0
