"""A product with an addend becomes a product and a sum."""

from __future__ import annotations

import torch

from qpass.graph.edit import aten
from qpass.passes.rules.split_baddbmm import split_baddbmm
from tests.passes.rules.rule_case import Call, apply, count, seeded


def test_a_mask_is_added_to_the_product() -> None:
    function = lambda m, x: torch.baddbmm(m.mask, x, x.transpose(1, 2)).softmax(-1) @ x  # noqa: E731
    graph, changed = apply(split_baddbmm, Call(function, mask=seeded(1, 5, 5)), seeded(2, 5, 4))
    assert changed == 1
    assert count(graph, aten.baddbmm.default) == 0
    assert count(graph, aten.bmm.default) == 1


def test_with_a_factor_it_stays() -> None:
    function = lambda m, x: torch.baddbmm(m.mask, x, x.transpose(1, 2), alpha=0.5)  # noqa: E731
    graph, changed = apply(split_baddbmm, Call(function, mask=seeded(1, 5, 5)), seeded(2, 5, 4))
    assert changed == 0
    assert count(graph, aten.baddbmm.default) == 1
