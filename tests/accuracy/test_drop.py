"""Limits against an independent search for the likeliest shares, against scipy, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from qpass.accuracy.drop import Scores, as_scores, drop_of, least_limit, samples_for, tango_limit
from qpass.errors import ConfigError

Z = float(stats.norm.ppf(0.95))


def scores(*values: float) -> Scores:
    return Scores(values, by_sample=True)


def score_at(losses: int, gains: int, samples: int, drop: float) -> float:
    """The score statistic with the likeliest shares for a given drop found by numeric search, not by a formula."""

    def unlikelihood(gained: float) -> float:
        shares = gained + drop, gained, 1 - drop - 2 * gained
        counts = losses, gains, samples - losses - gains
        return -sum(count * math.log(max(share, 1e-300)) for count, share in zip(counts, shares, strict=True) if count)

    low, high = max(0.0, -drop), (1 - drop) / 2
    gained = optimize.minimize_scalar(unlikelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-10}).x
    variance = (2 * gained + drop - drop**2) * samples
    return (losses - gains - samples * drop) / math.sqrt(variance)


@pytest.mark.parametrize(("losses", "gains", "samples"), [(12, 2, 50), (3, 1, 200), (0, 5, 40), (5, 0, 40), (30, 25, 650)])
def test_the_limit_is_where_the_score_test_stops_to_reject(losses: int, gains: int, samples: int) -> None:
    limit = tango_limit(losses, gains, samples)
    assert score_at(losses, gains, samples, limit) == pytest.approx(-Z, abs=2e-3)
    assert limit > (losses - gains) / samples


def test_a_network_that_changes_no_sample_may_still_lose_some() -> None:
    assert tango_limit(0, 0, 650) == pytest.approx(Z**2 / (650 + Z**2))
    assert tango_limit(20, 0, 20) == 1.0
    base = scores(*[100.0] * 650)
    assert least_limit(base) == pytest.approx(0.4145, abs=1e-3)
    needed = samples_for(0.4145, base)
    assert needed == pytest.approx(650, abs=2)
    assert least_limit(scores(*[1.0] * samples_for(0.05, scores(1.0, 0.0)))) <= 0.05
    assert least_limit(scores(0.3, 0.2)) == 0
    assert least_limit(Scores((3.0,), by_sample=False)) == 0


@pytest.mark.parametrize(("lost", "gained"), [(0.01, 0.0), (0.03, 0.01), (0.1, 0.08)])
def test_the_limit_is_above_the_true_drop_in_95_of_100_draws(lost: float, gained: float) -> None:
    draws = np.random.default_rng(0).multinomial(500, [lost, gained, 1 - lost - gained], size=1000)
    covered = np.mean([tango_limit(int(a), int(b), 500) >= lost - gained for a, b, _ in draws])
    assert 0.93 < covered <= 1


def test_right_and_wrong_are_paired_proportions_in_their_own_unit() -> None:
    base, ours = scores(*[100.0] * 90, *[0.0] * 10), scores(*[0.0] * 5, *[100.0] * 85, 100.0, *[0.0] * 9)
    drop = drop_of(ours, base)
    assert drop.value == pytest.approx(4)
    assert drop.error == pytest.approx(100 * np.std([1] * 5 + [-1] + [0] * 94) / 10)
    assert drop.limit == pytest.approx(100 * tango_limit(5, 1, 100))
    fractions = drop_of(*(scores(*(value / 100 for value in each.values)) for each in (ours, base)))
    assert fractions.limit == pytest.approx(drop.limit / 100)
    assert "at most" in str(drop)


def test_other_scores_have_the_limit_of_a_paired_t_test() -> None:
    generator = np.random.default_rng(1)
    base = generator.normal(30, 3, 40)
    ours = base - generator.normal(0.2, 0.1, 40)
    drop = drop_of(scores(*ours), scores(*base))
    expected = stats.ttest_rel(base, ours, alternative="less").confidence_interval(0.95).high
    assert drop.limit == pytest.approx(expected)


def test_a_single_number_has_no_confidence() -> None:
    drop = drop_of(Scores((70.0,), by_sample=False), Scores((71.5,), by_sample=False))
    assert (drop.value, drop.error, drop.limit) == (1.5, None, 1.5)
    assert str(drop) == "1.5"


def test_what_a_metric_may_return() -> None:
    assert as_scores(3) == Scores((3.0,), by_sample=False)
    assert as_scores(torch.tensor(0.5)).by_sample is False
    for returned in ([True, False], np.array([1, 0]), torch.tensor([1.0, 0.0], requires_grad=True)):
        assert as_scores(returned) == scores(1.0, 0.0)
    assert (scores(1, 0).unit, scores(100, 0).unit, scores(0, 0.5).unit, scores(1, 2).unit) == (1, 100, None, None)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "returned a score that is not finite"),
        ("high", "returned a str"),
        ([1.0], r"returned values of shape \(1,\)"),
        ([[1.0, 2.0]], r"returned values of shape \(1, 2\)"),
        ([1.0, float("nan")], "not finite"),
        (object(), "returned a object"),
    ],
)
def test_what_it_may_not(returned: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        as_scores(returned)


def test_other_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match="returned 3 scores, and 2 for the float network"):
        drop_of(scores(1, 1, 1), scores(1, 1))
