"""An input may not have the name of something that the code of its graph uses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx

from qpass.errors import DataError
from qpass.serialize.hidden_names import check_hides_nothing

aten = torch.ops.aten


def graph(*names: str, argument: Any = 2, target: Any = aten.add.Tensor, attribute: str | None = None) -> fx.Graph:
    made = fx.Graph()
    nodes = [made.create_node("placeholder", name, name=f"node_{n}") for n, name in enumerate(names)]
    if attribute is not None:
        made.get_attr(attribute)
    made.output(made.call_function(target, (nodes[0], argument)))
    return made


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("torch", {}),
        ("inf", {"argument": float("inf")}),
        ("nan", {"argument": [float("nan")]}),
        ("device", {"argument": torch.device("cpu")}),
        ("slice", {"argument": slice(1, 2)}),
        ("range", {"argument": (range(3),)}),
        ("complex", {"argument": 2j}),
        ("Ellipsis", {"argument": {"k": ...}}),
        ("getattr", {"attribute": "blocks.0.weight"}),
        ("__class__", {}),
    ],
)
def test_a_name_that_the_code_uses_is_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=f"{name}: is the name of something that the code uses"):
        check_hides_nothing(graph("x", name, **options))


@pytest.mark.parametrize("name", ["inf", "nan", "device", "slice", "complex", "Ellipsis", "getattr", "x_1", "_private"])
def test_a_name_that_it_does_not_use_is_not(name: str) -> None:
    check_hides_nothing(graph("x", name))


def test_two_inputs_have_two_names() -> None:
    with pytest.raises(DataError, match="x: is the name of two inputs; expected a name for each"):
        check_hides_nothing(graph("x", "x"))
