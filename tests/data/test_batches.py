from __future__ import annotations

import dataclasses
import warnings
from collections import UserDict, namedtuple
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qpass.data import ModelInputs, checked_batches
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


class Wide(nn.Module):
    """Takes whatever is given by name."""

    def forward(self, x: torch.Tensor, scale: float = 1.0, **more: object) -> torch.Tensor:
        return x * scale


class Wrapper(nn.Module):
    def forward(self, *args: object, **kwargs: object) -> object:
        return args or kwargs


@dataclasses.dataclass
class Fields:
    x: torch.Tensor
    mask: torch.Tensor


class Named(NamedTuple):
    x: torch.Tensor
    mask: torch.Tensor


MASK = torch.ones(4, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    "batch",
    [{"x": X, "mask": MASK}, UserDict(x=X, mask=MASK), Fields(X, MASK), ({"x": X, "mask": MASK}, "target")],
)
@pytest.mark.parametrize("model", [Wide(), Wrapper()])
def test_every_key_reaches_a_forward_that_takes_any(batch: object, model: nn.Module) -> None:
    (call,) = checked_batches([batch], model)
    assert list(call.kwargs) == ["x", "mask"]


@pytest.mark.parametrize("batch", [Named(X, MASK), (Named(X, MASK), torch.zeros(4))])
def test_fields_of_a_named_tuple_become_arguments_by_name(batch: object) -> None:
    (call,) = checked_batches([batch], Wide())
    assert list(call.kwargs) == ["x", "mask"]
    assert torch.equal(call.kwargs["mask"], MASK)


def test_a_named_tuple_of_an_input_and_its_target_is_a_pair() -> None:
    Pair = namedtuple("Pair", "image label")
    (call,) = checked_batches([Pair(X, torch.zeros(4, dtype=torch.long))], nn.Identity())
    assert torch.equal(call.args[0], X)
    assert call.kwargs == {}


def test_fields_that_the_forward_does_not_name_are_said() -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor, other: object = None) -> Tensor:
            return x

    with pytest.warns(UserWarning, match=r"not given \['mask'\], which its forward does not name"):
        (call,) = checked_batches([Named(X, MASK)], Masked())
    assert list(call.kwargs) == ["x"]


def test_nested_inputs_become_plain_dicts_of_tensors() -> None:
    (call,) = checked_batches([{"x": UserDict(a=[X.numpy(), {"b": X}], n=np.float32(2))}], Wide())
    assert torch.equal(call.kwargs["x"]["a"][0], X)
    assert type(call.kwargs["x"]) is dict
    assert call.kwargs["x"]["n"] == 2.0


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([{"x": X, "scale": 1.0}, {"x": X, "scale": 50.0}], r"batch 1: scale=50.0, but 1.0 in the first batch"),
        ([{"x": X, "scale": 1}, {"x": X, "scale": True}], r"batch 1: scale=True, but 1 in the first batch"),
        (
            [{"x": X, "mask": MASK}, {"x": X}],
            r"batch 1: no input \['mask'\]; expected the inputs of the first batch, \['x', 'mask'\]",
        ),
        ([{"x": X}, {"x": X, "mask": MASK}], r"batch 1: an input \['mask'\]"),
        ([{"x": X, "mask": None}, {"x": X, "mask": MASK}], r"batch 1: mask is a tensor; expected None, as in the first batch"),
        ([{"x": [X, X]}, {"x": [X, X, X]}], r"batch 1: an input \['x\[2\]'\]"),
        ([{"x": {"a": X}}, {"x": {"b": X}}], r"no input \[\"x\['a'\]\"\] and an input \[\"x\['b'\]\"\]"),
        ([{"x": X, "mask": object()}], r"batch 0: mask is a object; expected tensors, numbers, strings or None"),
    ],
)
def test_batches_that_differ_in_more_than_values_are_refused(batches: list[object], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        list(checked_batches(batches, Wide()))


def test_constants_and_dropped_keys_are_said_once() -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        list(checked_batches([{"values": X, "id": "a"}, {"values": X, "id": "b"}], DictModel()))
        list(checked_batches([{"x": X, "scale": 2.0}] * 2, Wide()))
    assert [str(warning.message) for warning in said] == [
        "the model is not given ['id'], which its forward does not name",
        "scale=2.0: constants of the graph, which refuses other values",
    ]


@pytest.mark.parametrize("as_array", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_a_loader_may_refill_its_buffer(as_array: bool, nested: bool) -> None:
    buffer = torch.zeros(4, 3)

    def loader() -> Iterator[object]:
        for value in (1.0, 2.0, 3.0):
            buffer.fill_(value)
            given = buffer.numpy() if as_array else buffer
            yield {"x": {"a": [given]}} if nested else given

    kept = list(checked_batches(loader(), Wide()))
    found = [batch.kwargs["x"]["a"][0] if nested else batch.args[0] for batch in kept]
    assert [tensor.unique().tolist() for tensor in found] == [[1.0], [2.0], [3.0]]


def test_a_transform_may_refill_its_buffer() -> None:
    buffer = torch.zeros(4, 3)
    kept = list(checked_batches([1.0, 2.0], nn.Identity(), buffer.fill_))
    assert [batch.args[0].unique().item() for batch in kept] == [1.0, 2.0]


def test_a_list_of_tensors_is_not_copied() -> None:
    (batch,) = checked_batches([X], nn.Identity())
    assert batch.args[0] is X


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


class Pair(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x if mask is None else x * mask


class Many(nn.Module):
    def forward(self, *images: Tensor) -> Tensor:
        return torch.stack(images).sum(0)


@pytest.mark.parametrize(("model", "taken"), [(Pair(), "mask"), (Many(), r"\*images")])
def test_a_tensor_that_may_be_an_input_is_not_dropped_in_silence(model: nn.Module, taken: str) -> None:
    with pytest.warns(UserWarning, match=rf"not given entries \[1\] of a batch.*also takes {taken}"):
        list(checked_batches([(torch.randn(4, 3), torch.rand(4, 3))], model))


def test_labels_are_dropped_in_silence_and_all_inputs_may_be_given(recwarn: pytest.WarningsRecorder) -> None:
    x, mask = torch.randn(4, 3), torch.rand(4, 3)
    list(checked_batches([(x, torch.arange(4))], Pair()))  # timm's ViTs take an attention mask
    list(checked_batches([(x, mask)], nn.Identity()))
    (batch,) = checked_batches([ModelInputs((x, mask), {})], Pair())
    assert len(batch.args) == 2
    assert not recwarn.list
