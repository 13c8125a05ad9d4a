"""Errors of means, against simulations whose errors are known, and textbook formulas."""

from __future__ import annotations

import numpy as np
import pytest
from paired import Estimate, over_images_and_seeds, over_resamples, resamples
from scipy import stats


def test_one_seed_has_the_error_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(size=(1, 40))
    assert over_images_and_seeds(values) == pytest.approx((values.mean(), stats.sem(values[0])))


@pytest.mark.parametrize(("images_sigma", "seeds_sigma"), [(1.0, 0.3), (0.2, 0.5), (1.0, 0.0)])
def test_several_seeds_have_the_error_that_means_of_other_images_and_seeds_have(
    images_sigma: float, seeds_sigma: float
) -> None:
    draw = np.random.default_rng(1)
    means, errors = [], []
    for _ in range(1500):
        values = (
            draw.normal(size=(1, 60)) * images_sigma + draw.normal(size=(3, 1)) * seeds_sigma + draw.normal(size=(3, 60)) * 0.5
        )
        found = over_images_and_seeds(values)
        means.append(found.value)
        errors.append(found.error**2)
    assert np.mean(errors) == pytest.approx(np.var(means), rel=0.15)


def test_what_images_and_seeds_share_is_counted_once() -> None:
    """Where recipes differ by image and seed alike, as an analysis of variance finds it."""
    values = np.random.default_rng(5).normal(size=(4, 6)) + np.array([[3.0], [0.0], [1.0], [2.0]])
    residual = [[values[s, i] - values[s].mean() - values[:, i].mean() + values.mean() for i in range(6)] for s in range(4)]
    shared = np.sum(np.square(residual)) / (3 * 5) / 24
    wanted = stats.sem(values.mean(0)) ** 2 + stats.sem(values.mean(1)) ** 2 - shared
    assert over_images_and_seeds(values).error ** 2 == pytest.approx(wanted)


def test_seeds_that_agree_leave_the_error_over_images() -> None:
    values = np.tile(np.random.default_rng(2).normal(size=(1, 30)), (3, 1))
    assert over_images_and_seeds(values).error == pytest.approx(stats.sem(values[0]))


def test_a_difference_is_one_from_two_errors_on() -> None:
    assert Estimate(-2.0, 1.0).differs
    assert not Estimate(1.99, 1.0).differs
    assert not Estimate(0.0, 0.0).differs
    assert Estimate(0.1, 0.0).differs


def test_resamples_of_a_mean_have_the_error_of_the_mean() -> None:
    values = np.random.default_rng(3).normal(size=400)
    resampled = values[resamples(400)].mean(1)
    found = over_resamples(np.array([values.mean()]), resampled[None])
    assert found.value == pytest.approx(values.mean())
    assert found.error == pytest.approx(stats.sem(values), rel=0.15)


def test_seeds_add_to_the_error_of_resamples() -> None:
    resampled = np.zeros((3, 200))
    assert over_resamples(np.array([1.0, 2.0, 3.0]), resampled) == pytest.approx((2.0, 1 / 3**0.5))


def test_resamples_are_the_same_for_every_row() -> None:
    assert (resamples(50) == resamples(50)).all()
    assert resamples(50).max() < 50


def test_what_rounds_to_zero_has_no_sign() -> None:
    assert str(Estimate(-0.04, 0.06)) == "0.0 ± 0.1"
    assert Estimate(-0.04, 0.06).text(2) == "-0.04 ± 0.06"
