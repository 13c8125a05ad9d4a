"""Against trying every combination."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qpass.solvers.bit_allocation import Options, allocate, least_cost

errors = st.floats(1e-6, 1.0)
costs = st.integers(1, 9)


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Options], dict[str, float]]:
    things = []
    for _ in range(draw(st.integers(1, 5))):
        count = draw(st.integers(1, 3))
        column = lambda values: draw(st.lists(values, min_size=count, max_size=count))  # noqa: B023, E731
        of = {name: column(costs) for name in draw(st.sampled_from([("a",), ("b",), ("a", "b")]))}
        things.append(Options(column(errors), of))
    room = draw(st.floats(0, 1))
    limits = {name: least_cost(things, name) + room * 20 for name in ("a", "b") if least_cost(things, name)}
    return things, limits


def cost(things: list[Options], chosen: tuple[int, ...], name: str) -> float:
    return sum(thing.costs[name][index] for thing, index in zip(things, chosen, strict=True) if name in thing.costs)


@settings(deadline=None)
@given(problems())
def test_no_combination_that_keeps_the_limits_has_less_error(problem: tuple[list[Options], dict[str, float]]) -> None:
    things, limits = problem

    def error(chosen: tuple[int, ...]) -> float:
        return sum(thing.errors[index] for thing, index in zip(things, chosen, strict=True))

    every = itertools.product(*(range(len(thing.errors)) for thing in things))
    allowed = [chosen for chosen in every if all(cost(things, chosen, name) <= limit for name, limit in limits.items())]
    if not allowed:  # each limit can be kept alone, and not both
        return
    found = tuple(allocate(things, limits))
    assert all(cost(things, found, name) <= limit * (1 + 1e-6) for name, limit in limits.items())
    assert error(found) <= min(map(error, allowed)) * (1 + 2e-4)


def test_the_greatest_errors_get_the_room() -> None:
    things = [Options([error, error / 256], {"bits": [4.0, 8.0]}) for error in (0.1, 0.4, 0.2)]
    assert allocate(things, {"bits": 16}) == [0, 1, 0]
    assert allocate(things, {"bits": 20}) == [0, 1, 1]


def test_things_without_a_cost_are_free() -> None:
    assert allocate([Options([0.2, 0.1], {}), Options([0.2, 0.1], {"bits": [1, 2]})], {"bits": 1}) == [1, 0]


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_units_do_not_matter(scale: float) -> None:
    things = [Options([scale * error, scale * error / 4], {"bits": [1e9, 2e9]}) for error in (3, 1, 2)]
    assert allocate(things, {"bits": 4.5e9}) == [1, 0, 0]
