"""The table of an exported program's sizes, what a caller may say of them, and which rows go together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from qpass.data import ModelInputs
from qpass.errors import ConfigError
from qpass.graph.capture.trace import trace
from qpass.graph.facts import facts_of, update_facts
from qpass.graph.signature.input_dims import (
    dims_left_open,
    dims_to_export,
    given_dims,
    larger_dims,
    layout_of,
    split_multiple,
    takes_any_rows,
    tie_rows,
)


class Pair(nn.Module):
    """Two inputs of rows of their own, and a table of a fixed size."""

    def forward(self, x: Tensor, others: list[Tensor], table: Tensor, **more: Tensor) -> Tensor:
        return (x + table) @ others[0].mT


def inputs(rows: int = 3, others: int = 4) -> tuple[Any, ...]:
    return torch.randn(rows, 6), [torch.randn(others, 6)], torch.randn(6)


def test_multiples_of_a_symbol_are_split() -> None:
    assert [split_multiple(dim) for dim in ("batch", "4*tokens", "4*a+1")] == [(1, "batch"), (4, "tokens"), (1, "4*a+1")]


def test_each_input_with_rows_of_its_own_has_a_symbol() -> None:
    graph = trace(Pair().eval(), inputs())
    x, others, table = facts_of(graph).dims
    assert (x, others[1:], table) == (("batch", 6), (6,), (6,))
    assert str(others[0]).startswith("others_0")
    assert layout_of(graph) == ["batch", others[0], None]
    assert not takes_any_rows(graph)


def test_inputs_that_always_have_as_many_rows_go_together() -> None:
    graph = trace(Pair().eval(), inputs())
    own = layout_of(graph)
    tie_rows(graph, [(3, 3, 6), (5, 4, 6)])
    assert layout_of(graph) == own
    tie_rows(graph, [(3, 3, 6), (5, 5, 6)])
    assert layout_of(graph) == ["batch", "batch", None], "the third has no rows, however large it is"
    assert takes_any_rows(graph)


def test_a_graph_of_fixed_sizes_has_no_layout_and_no_shapes_to_export() -> None:
    graph = trace(Pair().eval(), inputs())
    update_facts(graph, dims=[(3, 6), (4, 6), (6,)], dynamic_batch=False)
    assert layout_of(graph) == [None, None, None]
    assert not takes_any_rows(graph)
    assert dims_to_export(graph) is None


def test_symbols_become_dims_of_the_exporter_and_later_sizes_are_left_to_it() -> None:
    graph = trace(Pair().eval(), inputs())
    update_facts(graph, dims=[("batch", "tokens"), ("2*batch", 6), (6,)])
    shapes = dims_to_export(graph)
    assert shapes is not None
    x, (others,), table = shapes["x"], shapes["others"], shapes["table"]
    assert (x[0].__name__, x[1], others[1], table) == ("batch", Dim.AUTO, None, {0: None})
    assert others[0].root.__name__ == "batch"
    assert others[0].fn(3) == 6


class TestGivenDims:
    def test_names_dims_and_marks_open_sizes(self) -> None:
        given = {"x": {0: "rows", 1: None}, "others": [{0: Dim.AUTO}], "table": (Dim("width", min=2),)}
        x, others, table = given_dims(Pair(), inputs(), {}, given)
        assert x is not None
        assert table is not None
        assert [dim.__name__ for dim in (*x.values(), *table.values())] == ["rows", "width"]
        assert others == {0: Dim.AUTO}
        assert larger_dims([x, others, table, None]) == {"width"}
        assert dims_left_open(Pair(), ModelInputs(inputs(), {}), dynamic_shapes=given) == [[0], [0], [0]]

    def test_what_is_not_said_is_none(self) -> None:
        assert given_dims(Pair(), inputs(), {}, None) == [None, None, None]
        assert given_dims(Pair(), inputs(), {}, {"x": {}}) == [{}, None, None]

    def test_a_sequence_is_in_the_order_of_the_arguments(self) -> None:
        (x, *rest) = given_dims(Pair(), inputs(), {}, ({0: Dim.STATIC},))
        assert (x, rest) == ({}, [None, None])

    def test_inputs_that_have_no_parameter_lie_beside_the_others(self) -> None:
        found = given_dims(Pair(), inputs(), {"mask": torch.ones(3, 6)}, {"mask": {0: "rows"}})
        assert found[:3] == [None, None, None]
        assert found[3] is not None
        assert found[3][0].__name__ == "rows"

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (5, "dynamic_shapes: got a int; expected a mapping of inputs to their dims"),
            ({"y": {0: "rows"}}, "dynamic_shapes: no input 'y'"),
            ({"tabel": {}}, "did you mean 'table'"),
            ({"others": []}, "dynamic_shapes, others: got .*; expected 1 entries"),
            ({"x": {2: "rows"}}, "dynamic_shapes, x: got .* for a tensor of 2 dims"),
            ({"x": {0: 1.5}}, "dynamic_shapes, x: got .* for a tensor of 2 dims"),
            ({"x": "rows"}, "dynamic_shapes, x: got 'rows' for a tensor of 2 dims"),
        ],
    )
    def test_what_does_not_fit_the_inputs_is_refused_by_name(self, given: Any, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            given_dims(Pair(), inputs(), {}, given)
