"""Rows of batches: split, spread, merged and repeated."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from qpass.data import ModelInputs, checked_batches
from qpass.data.rows import batch_size, even_batches, has_own_rows, repeat_rows, split_rows, spread_samples, with_rows

X = torch.arange(12.0).view(4, 3)


def test_split_rows_drops_the_rest() -> None:
    (batch,) = checked_batches([X], nn.Identity())
    parts = split_rows(batch, 3)
    assert [part.args[0].shape[0] for part in parts] == [3]
    assert torch.equal(parts[0].args[0], X[:3])


@pytest.mark.parametrize(("wanted", "rows"), [(3, [0, 2, 4, 6]), (4, [0, 2, 4, 6]), (5, range(8)), (None, range(8))])
def test_samples_are_spread_over_the_batches(wanted: int | None, rows: Sequence[int]) -> None:
    data = torch.arange(16.0).view(8, 2)
    spread = spread_samples(list(checked_batches(data.split(4), nn.Identity())), wanted)
    assert torch.equal(torch.cat([batch.args[0] for batch in spread]), data[list(rows)])
    assert {len(batch.args[0]) for batch in spread} == {4}


@example(sizes=[3, 7], wanted=7)  # nine rows wanted, as many as the shared tensor has
@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=6), wanted=st.integers(1, 30))
def test_spread_samples_are_in_order_and_as_far_apart_as_they_can_be(sizes: list[int], wanted: int) -> None:
    data = torch.arange(float(sum(sizes)))
    shared = torch.zeros(9)
    batches = [ModelInputs((part,), {"mask": shared}) for part in data.split(sizes)]
    spread = spread_samples(batches, wanted)
    taken = torch.cat([batch.args[0] for batch in spread])
    assert all(batch.kwargs["mask"] is shared for batch in spread)
    gaps = (taken[1:] - taken[:-1]).tolist()
    assert taken[0] == 0
    assert len(taken) == min(len(data), -(-wanted // sizes[0]) * sizes[0])
    assert not gaps or (min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 6), st.integers(0, 6))
def test_even_batches_hold_the_same_rows_in_batches_that_are_neither_small_nor_large(
    sizes: list[int], least: int, more: int
) -> None:
    rows = torch.arange(sum(sizes))
    batches = [ModelInputs((part, part[:, None] * 2), {"z": part}) for part in rows.split(sizes)]
    even = list(even_batches(batches, least=least, most=least + more))
    assert torch.equal(torch.cat([batch.args[0] for batch in even]), rows)
    assert all(torch.equal(batch.args[1][:, 0], 2 * batch.kwargs["z"]) for batch in even)
    found = [batch_size(batch) for batch in even]
    assert max(found) <= least + more
    if max(sizes) <= least + more:  # none was cut
        assert all(a + b > least + more or a >= least for a, b in itertools.pairwise(found)), "what could go together did"
    if all(least <= size <= least + more for size in sizes):
        assert found == sizes


def test_rows_are_told_by_the_layout_and_not_by_size() -> None:
    table = torch.zeros(4, 2)
    batch = ModelInputs((table, X), {"texts": torch.arange(4)})
    layout = [None, "batch", "texts"]
    assert batch_size(batch, layout) == 4
    first, second = split_rows(batch, 2, layout=layout)
    assert first.args[0] is table
    assert torch.equal(torch.cat([first.args[1], second.args[1]]), X)
    assert first.kwargs["texts"].shape == (4,)


def test_batches_with_row_counts_of_their_own_are_taken_whole() -> None:
    batches = [ModelInputs((torch.zeros(2, 3),), {"texts": torch.full((n,), n)}) for n in range(1, 9)]
    spread = spread_samples(batches, 8, ["batch", "texts"])
    assert [len(batch.kwargs["texts"]) for batch in spread] == [1, 3, 5, 7]


def test_batches_of_other_shapes_or_without_rows_are_left_apart() -> None:
    shapes = [(2, 3), (2, 3), (2, 4)]
    batches = [ModelInputs((torch.zeros(shape),), {}) for shape in shapes]
    assert [tuple(batch.args[0].shape) for batch in even_batches(batches, least=8, most=8)] == [(4, 3), (2, 4)]
    masked = [ModelInputs((torch.zeros(2, 3), torch.zeros(5)), {}) for _ in range(2)]
    assert [batch_size(batch) for batch in even_batches(masked, least=8, most=8)] == [2, 2]


def test_rows_are_repeated_copy_after_copy_and_the_rest_is_shared() -> None:
    table = torch.zeros(2)
    repeated = repeat_rows(ModelInputs((X, table), {"scale": 3.0}), 2)
    assert torch.equal(repeated.args[0], torch.cat([X, X]))
    assert repeated.args[1] is table
    assert repeated.kwargs == {"scale": 3.0}


def test_each_symbol_may_get_a_row_count_of_its_own() -> None:
    """Rows are cycled where there are too few."""
    batch = ModelInputs((X, torch.arange(3), torch.zeros(5)), {"n": 1})
    found = with_rows(batch, {"batch": 6, "texts": 2}, ["batch", "texts", None])
    assert torch.equal(found.args[0], X[[0, 1, 2, 3, 0, 1]])
    assert found.args[1].tolist() == [0, 1]
    assert found.args[2] is batch.args[2]
    assert found.kwargs == {"n": 1}


def test_inputs_have_rows_of_their_own_if_their_symbols_differ() -> None:
    assert has_own_rows(["batch", None, "texts"])
    assert not has_own_rows(["batch", None, "batch"])
    assert not has_own_rows(None)


def test_a_batch_without_rows_is_one() -> None:
    assert batch_size(ModelInputs((torch.tensor(3.0),), {"n": 4})) == 1
    assert batch_size(ModelInputs((torch.tensor(3.0), X), {})) == 4
