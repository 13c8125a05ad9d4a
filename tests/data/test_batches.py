from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from qpass.data import ModelInputs, checked_batches
from qpass.data.batches import batch_size, even_batches, split_rows, spread_samples
from qpass.errors import CalibrationError
from tests.models import DictModel

X = torch.arange(12.0).view(4, 3)


@pytest.mark.parametrize(
    "loader",
    [
        X,
        [X],
        [(X, torch.zeros(4))],
        [[X, torch.zeros(4)]],
        iter([X]),
        [X.numpy()],
        torch.utils.data.DataLoader(X, batch_size=4),
    ],
)
def test_what_a_loader_may_yield(loader: object) -> None:
    (batch,) = checked_batches(loader, nn.Identity())
    assert torch.equal(batch.args[0], X)
    assert batch.kwargs == {}


def test_mappings_become_arguments_by_name() -> None:
    (batch,) = checked_batches([{"values": X, "labels": torch.zeros(4)}], DictModel())
    assert batch.args == ()
    assert set(batch.kwargs) == {"values"}


def test_transform_fn_maps_the_rest() -> None:
    (batch,) = checked_batches([("name.png", X)], nn.Identity(), lambda sample: sample[1])
    assert torch.equal(batch.args[0], X)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ([], "calib_loader: no batches; expected at least one batch"),
        (5, "calib_loader: got a int"),
        (["text"], r"a batch is a str; .*pass transform_fn="),
        ([X[:0]], r"batch 0: an empty tensor of shape \(0, 3\)"),
        (
            [X, torch.zeros(4, 5)],
            r"batch 1: shape \(4, 5\) torch.float32; expected \(batch, 3\) torch.float32, as the first batch",
        ),
        ([X, X.double()], "batch 1"),
        ([X, torch.full((4, 3), np.nan)], "batch 1: NaN or infinite values"),
        ([X.to("meta")], "batch 0: a tensor that is meta; expected dense tensors with values"),
        ([X, X.to_sparse()], "batch 1: a tensor that is torch.sparse_coo"),
        ([torch.quantize_per_tensor(X, 0.1, 0, torch.qint8)], "batch 0: a tensor that is quantized"),
        ([{"pixels": X}], r"keys \['pixels'\]; expected some of the model's inputs"),
    ],
)
def test_bad_data_is_refused_by_name(loader: object, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        list(checked_batches(loader, nn.Identity() if "pixels" not in str(loader) else DictModel()))


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


def test_batches_of_other_shapes_or_without_rows_are_left_apart() -> None:
    shapes = [(2, 3), (2, 3), (2, 4)]
    batches = [ModelInputs((torch.zeros(shape),), {}) for shape in shapes]
    assert [tuple(batch.args[0].shape) for batch in even_batches(batches, least=8, most=8)] == [(4, 3), (2, 4)]
    masked = [ModelInputs((torch.zeros(2, 3), torch.zeros(5)), {}) for _ in range(2)]
    assert [batch_size(batch) for batch in even_batches(masked, least=8, most=8)] == [2, 2]
