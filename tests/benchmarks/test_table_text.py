"""Drops and differences of rows, and what a page says of where they come from."""

from __future__ import annotations

import pytest
from scipy import stats
from stored_rows import Row
from table_text import difference, drop, same_kind, stale_note, where_from

from tests.benchmarks.rows import made_with, measured

FLOAT = measured("float", samples=[100.0, 100.0, 100.0, 0.0, 100.0, 0.0])
LOW = measured(samples=[100.0, 0.0, 100.0, 100.0, 0.0, 0.0])


def test_a_drop_is_paired_by_image() -> None:
    found = drop([LOW], FLOAT, "top-1")
    differences = [0.0, 100.0, 0.0, -100.0, 100.0, 0.0]
    assert found == pytest.approx((sum(differences) / 6, stats.sem(differences)))
    assert drop([FLOAT], FLOAT, "top-1") == (0.0, 0.0)


def test_two_recipes_are_compared_on_the_seeds_that_both_have() -> None:
    others = [measured("b", 0, samples=LOW.samples["top-1"]), measured("b", 1, samples=[0.0] * 6)]
    assert difference([LOW], others, "top-1") == (0.0, 0.0)
    assert difference([measured(seed=1)], [measured("b", 2)], "top-1") is None


def test_rows_that_kept_no_samples_have_the_drop_that_they_kept() -> None:
    old = [
        Row("a", seed, "", {"top-1": 0.0}, True, 1.0, drops={"top-1": (value, 1.0)}) for seed, value in enumerate((2.0, 4.0))
    ]
    assert drop(old, FLOAT, "top-1") == pytest.approx((3.0, (1.0 + 1.0) ** 0.5))
    assert same_kind([*old, LOW]) == [LOW], "new rows are not averaged with old ones"


def test_a_score_of_resamples_drops_resample_by_resample() -> None:
    base = measured("float", samples=[0.0], scores={"AP": 50.0}, resampled={"AP": [40.0, 50.0, 60.0]})
    row = measured(samples=[0.0], scores={"AP": 48.0}, resampled={"AP": [38.0, 48.0, 58.0]})
    assert drop([row], base, "AP") == (2.0, 0.0), "an error that both share is none of the difference"


def test_a_page_says_several_commits_and_machines() -> None:
    rows = [measured(), measured(seed=1, provenance=made_with(commit="def", machine="other"))]
    said = "\n".join(where_from([*rows, measured(provenance=None)]))
    assert "**several commits**: abc (1 rows); def (1 rows)" in said
    assert "**several machines**: CPU (1 rows); other (1 rows)" in said
    assert "- threads: 1" in said
    assert "1 rows were measured before" in said


def test_stale_rows_are_explained() -> None:
    assert stale_note({}) == []
    assert "changed since: a.py (2 rows)" in stale_note({"x": "changed since: a.py", "y": "changed since: a.py"})[-1]
