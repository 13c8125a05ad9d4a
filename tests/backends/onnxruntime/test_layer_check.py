from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from qpass.backends.onnxruntime.layer_check import LayerCheck, check_layers
from qpass.backends.onnxruntime.torch_run import Reach
from qpass.quantizers import Uniform


def test_bounds() -> None:
    def passes(codes: int, ties: int, own: int = 0, wrong: int = 0) -> bool:
        return LayerCheck("q", codes, ties, own, wrong).passed

    assert passes(100, 2)
    assert not passes(100, 3)
    assert passes(100, 10, own=8), "those that float32 cannot decide, and two more"
    assert not passes(100, 11, own=8)
    assert not passes(10**6, 0, wrong=1)


@pytest.mark.parametrize("codes", [100, 8192, 49_152, 10**6])
def test_one_tensor_in_a_million_has_more_ties_by_chance(codes: int) -> None:
    """NGswin has 405 quantizers: a limit that one tensor in a hundred exceeds refused an intact file."""
    expected, limit, at_most = 1e-4 * codes, 0, 0.0
    while True:
        at_most += math.exp(limit * math.log(expected) - expected - math.lgamma(limit + 1))
        if 1 - at_most <= 1e-6:
            break
        limit += 1
    assert LayerCheck("q", codes, limit, 0, 0).passed
    assert not LayerCheck("q", codes, limit + 1, 0, 0).passed


def compared(x: Tensor, exact: Tensor, moved: Tensor, reach: Reach | None = None, values: Tensor | None = None) -> LayerCheck:
    """Compares codes of ``x`` with those of ``moved``, at a scale of 1 and codes from -128 to 127.

    ``reach`` is what rounding before the quantizer can make of ``x``, ``values`` what the runtime rounds.
    """
    quantizer = Uniform(8, symmetric=True)
    reference: Any = SimpleNamespace(
        quantizers={"q": quantizer},
        inputs={"q": x},
        exact={"q": exact},
        codes={"q": quantizer.encode(x)},
        moved_inputs=lambda names, pairs: lambda name: reach or Reach(x, x),
    )
    rounded = None if values is None else lambda name: values
    (check,) = check_layers(reference, lambda name: quantizer.encode(moved), lambda name: f"made {name}", values=rounded)
    return check


def spread(count: int = 1000) -> Tensor:
    """Values from -100 to 100, none of them within 0.1 of the edge of two codes."""
    return torch.randint(-100, 101, (count,), generator=torch.Generator().manual_seed(0)) + 0.4 * torch.linspace(-1, 1, count)


def test_equal_codes_pass() -> None:
    assert compared(spread(), spread().double(), spread()) == LayerCheck("q", 1000, 0, 0, 0)


@pytest.mark.parametrize("shape", [(999,), (1, 1000), (1,)])
def test_codes_of_another_shape_are_all_wrong(shape: tuple[int, ...]) -> None:
    """One that broadcasts too."""
    moved = torch.zeros(shape)
    assert compared(spread(), spread().double(), moved).wrong == 1000


def test_codes_that_differ_far_from_an_edge_are_wrong_and_their_operator_named() -> None:
    moved = spread()
    moved[7] += 1
    check = compared(spread(), spread().double(), moved)
    assert (check.wrong, check.ties, check.caused_by) == (1, 0, "made q")


def test_values_that_lie_on_an_edge_by_construction_may_all_fall_the_other_way() -> None:
    x = spread()
    x[:50], x[50] = 2.5 - 2**-20, 100.0
    check = compared(x, x.double(), x + 2**-19)
    assert (check.ties, check.own_ties, check.wrong) == (50, 50, 0)
    assert check.passed


def test_values_near_an_edge_that_float32_can_decide_are_ties_but_may_be_few_only() -> None:
    x = spread()
    x[:50], x[50] = 2.5 - 1e-4, 100.0  # within 2e-6 of the greatest magnitude, not within four roundings
    check = compared(x, x.double(), x + 2e-4 * (x == x[0]))
    assert (check.ties, check.own_ties, check.wrong) == (50, 0, 0)
    assert not check.passed


def test_torchs_own_error_decides_where_float32_is_worse_than_that() -> None:
    x = spread()
    x[:50], x[50] = 2.5 - 1e-4, 100.0
    noise = 2e-4 * (-1.0) ** torch.arange(len(x))
    check = compared(x, x.double() + noise, x + 2e-4 * (x == x[0]))
    assert check.own_ties == 50
    assert check.passed


def test_codes_that_a_choice_by_value_turns_are_ties_and_no_more_than_it_explains() -> None:
    x = spread()
    moved = x.clone()
    moved[:50] = 0.0  # masked by the runtime, which rounds the scores before the mask otherwise
    both = Reach(torch.minimum(x, moved), torch.maximum(x, moved))
    check = compared(x, x.double(), moved, both)
    assert check.wrong == 0
    assert check.ties == check.own_ties == int((moved[:50].round() != x[:50].round()).sum()) > 40
    assert check.passed
    moved[100] += 3
    check = compared(x, x.double(), moved, both)
    assert check.wrong == 1
    assert not check.passed


def test_values_beneath_equal_codes_are_compared() -> None:
    x = spread()
    assert compared(x, x.double(), x, values=x * (1 + 2.0**-20)).passed
    wrong = compared(x, x.double(), x, values=x + 2.0**-17 * x.abs().max())  # twice the 64 roundings that are allowed
    assert (wrong.wrong, wrong.ties) == (0, 0)
    assert wrong.off == pytest.approx(2, rel=0.05)
    assert not wrong.passed
