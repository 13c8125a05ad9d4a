"""What changes nothing goes."""

from __future__ import annotations

import torch.nn.functional as F

from qpass.graph.edit import aten
from qpass.passes.rules.drop_no_ops import drop_no_ops
from tests.passes.rules.rule_case import Call, apply, count, seeded


def test_dropout_whole_slice_and_zero_pad_go() -> None:
    function = lambda m, x: F.pad(F.dropout(x, 0.5, m.training)[:], (0, 0)).detach() + 1  # noqa: E731
    graph, dropped = apply(drop_no_ops, Call(function), seeded(2, 4))
    assert dropped >= 3
    assert [node.target for node in graph.graph.nodes if node.op == "call_function"] == [aten.add.Tensor]


def test_a_real_slice_and_a_real_pad_stay() -> None:
    graph, _ = apply(drop_no_ops, Call(lambda m, x: F.pad(x[:, 1:], (0, 1))), seeded(2, 4))
    assert count(graph, aten.slice.Tensor, aten.pad.default) == 2
