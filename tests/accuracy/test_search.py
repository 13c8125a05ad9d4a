"""Few tries, and the right one of any sequence."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qpass.accuracy.search import first_that_meets


@given(st.integers(1, 80).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1), st.integers(0, n))))
def test_of_candidates_in_order_the_first_is_found_with_few_tries(problem: tuple[int, int, int]) -> None:
    count, landmark, first = problem
    tried: list[int] = []
    found = first_that_meets(count, landmark, lambda index: bool(tried.append(index)) or index >= first)
    assert found == (first if first < count else None)
    assert len(tried) <= 14
    assert tried[0] == 0
    if found is None:
        assert count - 1 in tried, "the widest was tried"


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.data())
def test_of_any_candidates_one_is_found_whose_predecessor_was_tried(meets: list[bool], data: st.DataObject) -> None:
    tried: list[int] = []
    landmark = data.draw(st.integers(0, len(meets) - 1))
    found = first_that_meets(len(meets), landmark, lambda index: bool(tried.append(index)) or meets[index])
    if found is None:
        assert not any(meets[index] for index in tried)
        assert len(meets) - 1 in tried
    else:
        assert meets[found]
        assert found in tried
        assert found == 0 or (found - 1 in tried and not meets[found - 1])
