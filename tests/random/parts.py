"""Long sweeps in parts that run, fail and repeat one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy, tuples

#: 500 cases.
PARTS, CASES_OF_A_PART = 20, 25
#: All phases but the one that traces every line to explain a failure, which takes longer than the cases themselves.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)

#: Runs a sweep's parts as tests of their own: ``-k part3`` is one of them.
in_parts = pytest.mark.parametrize("part", range(PARTS), ids=lambda part: f"part{part}")


def run_part(part: int, check: Callable[..., None], *strategies: SearchStrategy[Any], **options: Any) -> None:
    """Checks the cases of one part, which are the same in each run.

    Args:
        part: Number of the part.
        check: Takes a case.
        strategies: What a case is drawn from.
        options: Hypothesis's settings.
    """

    @seed(part)
    @settings(max_examples=CASES_OF_A_PART, database=None, **options)
    @given(tuples(*strategies))
    def run(case: tuple[Any, ...]) -> None:
        check(*case)

    run()
