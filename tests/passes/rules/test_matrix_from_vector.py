"""A vector that is multiplied with a matrix is one row or one column."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

from qpass.graph.edit import aten
from qpass.passes.rules.matrix_from_vector import matrix_from_vector
from tests.passes.rules.rule_case import Call, apply, count, seeded


@pytest.mark.parametrize(("shape", "first"), [((2, 3, 4), False), ((2, 4, 3), True)])
def test_a_vector_becomes_a_matrix(shape: tuple[int, ...], first: bool) -> None:
    def function(m: nn.Module, x: Tensor) -> Tensor:
        return m.v @ x if first else x @ m.v

    graph, changed = apply(matrix_from_vector, Call(function, v=seeded(4)), seeded(*shape))
    assert changed == 1
    assert count(graph, aten.unsqueeze.default, aten.squeeze.dim) == 2


@pytest.mark.parametrize("other", [(4,), (4, 5)], ids=["two vectors", "two matrices"])
def test_products_of_equals_stay(other: tuple[int, ...]) -> None:
    x = seeded(4) if other == (4,) else seeded(2, 4)
    _, changed = apply(matrix_from_vector, Call(lambda m, x: (x @ m.v) * 1, v=seeded(*other)), x)
    assert changed == 0
