"""Whatever a forward may write is put back, in the same objects."""

from __future__ import annotations

import functools
import random
from collections import OrderedDict, UserDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from qpass.graph.capture.snapshot import Snapshot


@dataclass(frozen=True)
class Frozen:
    values: list[int]


class Slotted:
    __slots__ = ("late", "value")

    def __init__(self) -> None:
        self.value = [1]


class Model(nn.Module):
    calls: ClassVar[list[int]] = []
    count = 0

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("buffer", torch.zeros(2))
        self.plain = {"a": [1, 2], "b": torch.ones(2)}
        self.ordered = OrderedDict(a=1, b=2)
        self.queue, self.names = deque([1, 2]), {"x"}
        self.array, self.nested = np.zeros(3), ({"inner": [5]},)
        self.generator, self.random = torch.Generator().manual_seed(3), random.Random(4)
        self.space, self.user = SimpleNamespace(n=1), UserDict(a=1)
        self.frozen, self.slotted = Frozen([1]), Slotted()

    @staticmethod
    @functools.cache
    def table(size: int) -> torch.Tensor:
        return torch.zeros(size)


WRITES: dict[str, Callable[[Model], object]] = {
    "a parameter in place": lambda m: m.weight.data.mul_(2),
    "a parameter by data": lambda m: setattr(m.weight, "data", torch.zeros(5)),
    "a buffer": lambda m: m.buffer.add_(1),
    "an attribute": lambda m: setattr(m, "plain", None),
    "a new attribute": lambda m: setattr(m, "new", 3),
    "a deleted attribute": lambda m: delattr(m, "names"),
    "an entry": lambda m: m.plain["a"].append(3),
    "a tensor in a dict": lambda m: m.plain["b"].zero_(),
    "the order of a dict": lambda m: m.ordered.move_to_end("a"),
    "a queue": lambda m: m.queue.popleft(),
    "a set": lambda m: m.names.add("y"),
    "an array": lambda m: m.array.fill(7),
    "in a tuple": lambda m: m.nested[0]["inner"].clear(),
    "a generator": lambda m: torch.rand(1, generator=m.generator),
    "Python's generator": lambda m: m.random.random(),
    "a namespace": lambda m: setattr(m.space, "n", 2),
    "a user's dict": lambda m: m.user.update(b=2),
    "inside of a frozen dataclass": lambda m: m.frozen.values.append(2),
    "a slot": lambda m: setattr(m.slotted, "value", None),
    "a slot that was empty": lambda m: setattr(m.slotted, "late", 1),
    "a list of the class": lambda m: Model.calls.append(1),
    "an attribute of the class": lambda m: setattr(Model, "count", 9),
    "a new attribute of the class": lambda m: setattr(Model, "more", 9),
}


def state(model: Model) -> Any:
    """All that the writes change, as plain values."""
    own = {name: value for name, value in model.__dict__.items() if not name.startswith("_")}
    return (
        [
            model.weight.detach().tolist(),
            model.buffer.tolist(),
            sorted(own),
            list(model.ordered),
            model.plain and list(model.plain),
        ],
        [
            model.plain and (list(model.plain["a"]), model.plain["b"].tolist()),
            list(model.queue),
            set(getattr(model, "names", ())),
        ],
        [model.array.tolist(), model.nested[0]["inner"][:], model.generator.get_state().tolist(), model.random.getstate()],
        [vars(model.space).copy(), dict(model.user), list(model.frozen.values), getattr(model.slotted, "late", "none")],
        [model.slotted.value and list(model.slotted.value), list(Model.calls), Model.count, hasattr(Model, "more")],
    )


@pytest.mark.parametrize("write", WRITES)
def test_every_write_is_undone_in_the_same_object(write: str) -> None:
    model = Model()
    before, objects = state(model), {name: id(value) for name, value in vars(model).items()}
    weight, memory = model.weight, model.weight.data_ptr()
    snapshot = Snapshot(model)
    with torch.no_grad():
        WRITES[write](model)
    changed = state(model) != before
    snapshot.restore()
    assert changed, "the write is one"
    assert state(model) == before
    assert {name: id(value) for name, value in vars(model).items()} == objects
    assert model.weight is weight
    assert weight.data_ptr() == memory


def test_a_cache_that_was_filled_is_emptied() -> None:
    Model.table.cache_clear()
    snapshot = Snapshot(model := Model())
    model.table(3)
    snapshot.restore()
    assert Model.table.cache_info().currsize == 0
    Model.table(4)
    Snapshot(model).restore()
    assert Model.table.cache_info().currsize == 1, "what was there before stays"
