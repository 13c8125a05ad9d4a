"""Rows of operands that rows of an output need."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from qpass.graph.capture.trace import trace
from qpass.passes import Canonicalize
from qpass.passes.analysis.rows import Rows, rows_of_operands, selected_rows
from tests.passes.rules.rule_case import Call, seeded

X, Y = seeded(2, 6, 4), seeded(2, 4, 6)

#: Functions of X and Y whose output's dim 1 or 2 needs some rows of operands.
CALLS: dict[str, tuple[Callable[..., Tensor], Rows, dict[int, Rows] | None]] = {
    "sum": (lambda m, x, y: x + y.mT, Rows(1, 2, 3), {0: Rows(1, 2, 3), 1: Rows(1, 2, 3)}),
    "broadcast": (lambda m, x, y: x + y[:, :1, :4], Rows(1, 2, 3), {0: Rows(1, 2, 3)}),
    "fewer dims": (lambda m, x, y: x * m.w, Rows(1, 2, 3), {0: Rows(1, 2, 3), 1: Rows(0, 2, 3)}),
    "product": (lambda m, x, y: x @ y, Rows(1, 0, 2), {0: Rows(1, 0, 2)}),
    "columns of a product": (lambda m, x, y: x @ y, Rows(2, 0, 2), None),
    "softmax": (lambda m, x, y: x.softmax(-1), Rows(1, 0, 2), {0: Rows(1, 0, 2)}),
    "softmax over rows": (lambda m, x, y: x.softmax(1), Rows(1, 0, 2), None),
    "transpose": (lambda m, x, y: x.transpose(1, 2), Rows(2, 1, 3), {0: Rows(1, 1, 3)}),
    "permute": (lambda m, x, y: x.permute(2, 0, 1), Rows(2, 1, 3), {0: Rows(1, 1, 3)}),
    "split channels": (lambda m, x, y: x.reshape(-1, 6, 2, 2), Rows(1, 1, 3), {0: Rows(1, 1, 3)}),
    "split rows": (lambda m, x, y: x.reshape(-1, 2, 3, 4), Rows(2, 1, 3), None),
    "merged rows": (lambda m, x, y: x.reshape(-1, 24), Rows(1, 1, 3), None),
    "cumulative": (lambda m, x, y: x.cumsum(1), Rows(1, 1, 3), None),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_rows_of_operands(name: str) -> None:
    function, rows, expected = CALLS[name]
    graph = trace(Call(function, w=seeded(6, 4)), (X, Y))
    Canonicalize()(graph)
    assert rows_of_operands(graph, list(graph.graph.nodes)[-1].all_input_nodes[0], rows) == expected


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda m, x, y: x[:, 2], Rows(1, 2, 3)),
        (lambda m, x, y: x[:, -1], Rows(1, 5, 6)),
        (lambda m, x, y: x[:, 1:4], Rows(1, 1, 4)),
        (lambda m, x, y: x[:, -2:], Rows(1, 4, 6)),
        (lambda m, x, y: x[:, ::2], None),
        (lambda m, x, y: x * 2, None),
    ],
)
def test_selected_rows(function: Callable[..., Tensor], expected: Rows | None) -> None:
    graph = trace(Call(function), (X, Y))
    Canonicalize()(graph)
    assert selected_rows(list(graph.graph.nodes)[-1].all_input_nodes[0]) == expected


def test_a_union_holds_all_parts_of_one_dim() -> None:
    assert Rows.union([Rows(1, 0, 1), Rows(1, 3, 4)]) == Rows(1, 0, 4)
    assert Rows.union([Rows(1, 0, 1), Rows(2, 0, 1)]) is None
    assert Rows.union([Rows(1, 0, 1), None]) is None
    assert Rows.union([]) is None
    assert Rows(1, 2, 5).count == 3
