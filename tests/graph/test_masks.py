"""Ranges of masks hold for every value that the network computes, and features have none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten, calls, record_shapes
from qpass.graph.masks import mask_ranges, two_values
from tests.writing_programs import Call

Make = Callable[[Tensor], Tensor]

MASKS: dict[str, tuple[Make, tuple[float, float]]] = {
    "itself": (lambda m: m * 1.0, (0, 1)),
    "what is left": (lambda m: 1.0 - m, (0, 1)),
    "an addend": (lambda m: (1.0 - m) * -1e4, (-1e4, 0)),
    "a fill": (lambda m: torch.zeros_like(m).masked_fill(m > 0.5, -1e9), (-1e9, 0)),
    "infinite": (lambda m: torch.where(m > 0.5, 0.0, float("-inf")), (float("-inf"), 0)),
    "a logarithm": (lambda m: m.log(), (float("-inf"), 0)),
    "a triangle": (lambda m: torch.full((5, 5), -7.0).triu(1) + m[:, None], (-7, 1)),
    "moved": (lambda m: m[:, None, :].expand(-1, 3, -1).neg() / 2, (-0.5, 0)),
}


def range_of(make: Make, mask: Tensor) -> tuple[Tensor, tuple[float, float] | None]:
    """Returns the values of a function of a mask, and the range that is found for them."""
    model = Call(lambda _, x, mask: (make(mask).sin().sum() + x.exp().sum())[None]).eval()
    graph = trace(model, (torch.randn(3, 5), mask))
    record_shapes(graph)
    node = next(calls(graph, aten.sin.default)).args[0]
    return make(mask), mask_ranges(graph).get(node)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", MASKS)
def test_values_lie_within_the_range(name: str) -> None:
    make, expected = MASKS[name]
    mask = (torch.rand(3, 5, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    values, found = range_of(make, mask)
    assert found == expected
    for others in (mask, 1 - mask, torch.zeros_like(mask), torch.ones_like(mask)):
        values = make(others)
        assert (values >= expected[0]).all()
        assert (values <= expected[1]).all()


@pytest.mark.parametrize(
    "make",
    [lambda m: m.cos(), lambda m: m.sum(-1, keepdim=True), lambda m: m @ torch.ones(5, 5), lambda m: m + torch.arange(5.0)],
    ids=["a function", "a count", "a product", "positions"],
)
def test_what_is_more_than_a_mask_has_no_range(make: Make) -> None:
    assert range_of(make, (torch.arange(15).view(3, 5) % 2).float())[1] is None


def test_a_tensor_of_many_values_is_no_mask() -> None:
    assert range_of(lambda m: m * 1.0, torch.randn(3, 5))[1] is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1, 1], (0, 1)),
        ([0, -1e4], (-1e4, 0)),
        ([1, 1], (1, 1)),
        ([3], (3, 3)),
        ([2, 3], None),
        ([0, 1, 2], None),
        ([], None),
    ],
)
def test_two_values_of_which_one_is_zero(values: list[float], expected: tuple[float, float] | None) -> None:
    assert two_values(torch.tensor(values)) == expected


def test_features_have_no_range() -> None:
    graph = trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval(), (torch.randn(2, 4),))
    record_shapes(graph)
    found = mask_ranges(graph)
    assert not {node for node in graph.graph.nodes if node.op == "call_function"} & set(found)
