"""Names of the inputs of a call, and which constants are the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qpass.data.structure import check_structure, check_values, forward_parameters, named_leaves, same_constant, takes_any_name
from qpass.errors import CalibrationError


class Model(nn.Module):
    def forward(self, x: Tensor, sizes: Any, *more: Any, mask: Any = None, **rest: Any) -> None: ...


X = torch.ones(1)


def test_leaves_are_named_by_parameter_and_place() -> None:
    named = named_leaves((X, [1, (2, X)], 3), {"mask": {"a": 4}, "other": None}, Model())
    assert list(named) == ["x", "sizes[0]", "sizes[1][0]", "sizes[1][1]", "more_0", "mask['a']", "other"]
    assert [named["sizes[0]"], named["more_0"], named["mask['a']"]] == [1, 3, 4]


def test_a_forward_that_cannot_be_inspected_has_no_names() -> None:
    odd = nn.Module()
    odd.forward = 3  # type: ignore[assignment]
    assert forward_parameters(odd) == {}
    assert list(named_leaves((X,), {}, odd)) == ["argument 0"]
    assert takes_any_name(Model())
    assert not takes_any_name(nn.Identity())


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (1, 1, True),
        (1, True, False),
        (1, 1.0, False),
        (float("nan"), float("nan"), True),
        ("a", "a", True),
        (None, None, True),
        (torch.float32, torch.float64, False),
    ],
)
def test_constants_are_the_same_with_their_type(a: object, b: object, same: bool) -> None:
    assert same_constant(a, b) == same


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"x": X}, r"batch 3: no input \['n'\]; expected the inputs of the first batch, \['x', 'n'\]"),
        ({"x": X, "n": 2, "m": 3}, r"an input \['m'\]"),
        ({"x": 3, "n": 2}, "x is 3; expected a tensor, as in the first batch"),
        ({"x": X, "n": X}, "n is a tensor; expected 2, as in the first batch"),
        ({"x": X, "n": 3}, "n=3, but 2 in the first batch"),
    ],
)
def test_a_call_that_differs_from_the_first_is_refused(found: dict[str, object], message: str) -> None:
    first = {"x": X, "n": 2}
    check_structure({"x": torch.zeros(5), "n": 2}, first, "batch 3")
    with pytest.raises(CalibrationError, match=message):
        check_structure(found, first, "batch 3")


@pytest.mark.parametrize("value", [object(), 1j, torch.float64, torch.device("cpu"), torch.strided])
def test_values_that_no_graph_takes_are_refused(value: object) -> None:
    check_values({"a": X, "b": 1.0, "c": "text", "d": None, "e": True}, "batch 0")
    with pytest.raises(CalibrationError, match=r"batch 0: a is a \w+; expected tensors, numbers, strings or None"):
        check_values({"a": value}, "batch 0")
