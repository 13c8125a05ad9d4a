"""A padding in words becomes the same in numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch.nn.functional as F
from torch import Tensor, nn

from qpass.graph.edit import aten
from qpass.passes.rules.numeric_padding import numeric_padding
from tests.passes.rules.rule_case import Call, apply, count, seeded

CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
BY_WORD = [aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding]


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"padding": "valid"},
        {"padding": "same"},
        {"padding": "valid", "stride": 2},
        {"padding": "same", "dilation": 2},
        {"padding": "same", "groups": 2},
    ],
    ids=str,
)
def test_words_become_numbers(dims: int, options: dict[str, Any]) -> None:
    def function(m: nn.Module, x: Tensor) -> Tensor:
        return CONVOLVE[dims](x, m.w, m.b, **options)

    weight = seeded(4, 4 // options.get("groups", 1), *[3, 5, 3][:dims])
    graph, changed = apply(numeric_padding, Call(function, w=weight, b=seeded(4)), seeded(2, 4, *[9, 8, 7][:dims]))
    assert changed == 1
    assert count(graph, *BY_WORD) == 0


def test_windows_of_an_even_size_are_padded_unevenly_and_stay() -> None:
    model = Call(lambda m, x: F.conv2d(x, m.w, padding="same"), w=seeded(4, 3, 2, 3))
    graph, changed = apply(numeric_padding, model, seeded(2, 3, 6, 6))
    assert changed == 0
    assert count(graph, *BY_WORD) == 1
