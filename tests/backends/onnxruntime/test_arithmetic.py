from __future__ import annotations

from typing import Any

import pytest
import torch
from onnx import helper
from torch.utils.flop_counter import FlopCounterMode

from qpass.backends.onnxruntime.arithmetic import integer_peak, multiply_adds


@pytest.mark.parametrize(
    ("operator", "attributes", "weight", "compute", "first"),
    [
        ("MatMul", {}, (8, 6), lambda x, w: x @ w, (2, 4, 8)),
        ("FusedMatMul", {"transA": 1}, (4, 6), lambda x, w: x.mT @ w, (4, 5)),
        ("Gemm", {}, (8, 6), lambda x, w: x @ w, (5, 8)),
        ("Gemm", {"transA": 1}, (8, 6), lambda x, w: x.T @ w, (8, 5)),
        ("Conv", {}, (6, 3, 2, 2), lambda x, w: torch.conv2d(x, w), (2, 3, 5, 5)),
        ("Conv", {"group": 3}, (6, 1, 2, 2), lambda x, w: torch.conv2d(x, w, groups=3), (2, 3, 5, 5)),
    ],
)
def test_the_count_is_torchs(
    operator: str, attributes: dict[str, int], weight: tuple[int, ...], compute: Any, first: Any
) -> None:
    node = helper.make_node(operator, ["x", "w"], ["y"], **attributes)
    x, w = torch.randn(first), torch.randn(weight)
    with FlopCounterMode(display=False) as counter:
        y = compute(x, w)
    assert 2 * multiply_adds(node, first, y.shape, {"w": weight}) == counter.get_total_flops()


@pytest.mark.parametrize("operator", ["Einsum", "Softmax"])
def test_other_operators_count_nothing(operator: str) -> None:
    assert multiply_adds(helper.make_node(operator, ["x", "w"], ["y"]), (2, 2), (2, 2), {}) == 0


def test_the_peak_is_that_of_a_machine_and_not_of_a_clock() -> None:
    """More than a scalar loop does, less than any processor can."""
    assert 1e9 < integer_peak(runs=2) < 1e15
