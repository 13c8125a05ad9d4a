"""Chooses one option per item: the lowest total error within all cost limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Options:
    """Candidate choices for one item.

    Attributes:
        errors: Error of each option.
        costs: Cost of each option, by name of the limit.
    """

    errors: Sequence[float]
    costs: Mapping[str, Sequence[float]]


def least_cost(things: Sequence[Options], limit: str) -> float:
    """Returns the lowest possible total cost."""
    return sum(min(thing.costs[limit]) for thing in things if limit in thing.costs)


def allocate(things: Sequence[Options], limits: Mapping[str, float]) -> list[int]:
    """Returns the index of the chosen option for each item.

    Solves a 0-1 linear program to a ten-thousandth of the error.

    Args:
        things: Items, each with at least one option.
        limits: Cost limits by name, each at least ``least_cost``.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # slow to import, and only budgets need it

    owner = np.repeat(np.arange(len(things)), [len(thing.errors) for thing in things])
    errors = np.concatenate([np.asarray(thing.errors, float) for thing in things])
    one_each = (owner == np.arange(len(things))[:, None]).astype(float)
    constraints = [LinearConstraint(one_each, 1, 1)]
    for name, limit in limits.items():
        costs = np.concatenate([np.asarray(thing.costs.get(name, np.zeros(len(thing.errors))), float) for thing in things])
        # Costs in units of the limit, because the solver's tolerances are absolute.
        constraints.append(LinearConstraint(costs / limit, -np.inf, 1))
    scale = errors.max() or 1.0
    found = milp(errors / scale, integrality=np.ones(len(owner)), bounds=Bounds(0, 1), constraints=constraints)
    assert found.x is not None, found.message
    chosen = found.x.round().astype(bool)
    starts = np.searchsorted(owner, np.arange(len(things)))
    return [int(index - starts[owner[index]]) for index in np.flatnonzero(chosen)]
