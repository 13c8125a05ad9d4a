"""Whatever a forward changes in the caller's model is there again, in the very objects, after the model was captured."""

from __future__ import annotations

import functools
from collections import OrderedDict, UserDict, defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import qpass
from qpass.graph.capture.undisturbed import undisturbed


@dataclass
class State:
    """A cache as people write them."""

    calls: int = 0
    tables: dict[Any, Any] = field(default_factory=dict)
    last: Tensor | None = None


@dataclass(slots=True)
class Slots:
    calls: int = 0
    last: Any = None


class Plain:
    """No dataclass, and with one that is inside another."""

    def __init__(self) -> None:
        self.inner, self.history = State(), [[]]


class Net(nn.Module):
    """Two Linears; ``write`` changes whatever it likes."""

    shared: dict[Any, Any] = {}  # noqa: RUF012 (as people write it)
    total = 0

    def __init__(self, write: Callable[[Net, Tensor], Any] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)
        self.write = write
        self.scale = nn.Parameter(torch.full((), 5.0))
        self.register_buffer("seen", torch.zeros(6))
        self.dict, self.list, self.set = {"old": torch.ones(6)}, [torch.ones(6)], {1}
        self.ordered, self.default, self.queue = OrderedDict(a=1), defaultdict(list), deque([1, 2], maxlen=2)
        self.user, self.space = UserDict(), SimpleNamespace(n=0)
        self.nested = {"a": [{"b": (torch.zeros(6), [])}]}
        self.state, self.slots, self.plain = State(), Slots(), Plain()
        self.array, self.generator = np.zeros(3), torch.Generator().manual_seed(3)
        self.hidden = [nn.Linear(6, 6)]
        self.hidden[0].counter = 0

    @functools.lru_cache(maxsize=4)  # noqa: B019 (as people write it)
    def table(self, n: int) -> Tensor:
        return torch.arange(n).float()

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        if self.write is not None:
            self.write(self, y)
        return self.two(y)


def replaced(net: Net, y: Tensor) -> None:
    net.one.weight.data = net.one.weight.data * 1


WRITES: dict[str, Callable[[Net, Tensor], Any]] = {
    "entry of a dict": lambda net, y: net.dict.update({tuple(map(int, y.shape[1:])): torch.ones(6)}),
    "entry that goes": lambda net, y: net.dict.pop("old", None),
    "tensor in a dict": lambda net, y: net.dict["old"].add_(1),
    "list": lambda net, y: net.list.append(torch.ones(6)),
    "list that is sorted": lambda net, y: (net.list.insert(0, 5), net.list.reverse()),
    "set": lambda net, y: net.set.add(len(net.set) + 1),
    "ordered dict": lambda net, y: net.ordered.move_to_end("a") or net.ordered.update(b=2),
    "default dict": lambda net, y: net.default["x"].append(1),
    "deque": lambda net, y: net.queue.append(7),
    "user dict": lambda net, y: net.user.update(a=1),
    "namespace": lambda net, y: setattr(net.space, "n", net.space.n + 1),
    "nested list": lambda net, y: net.nested["a"][0]["b"][1].append(1),
    "tensor in a tuple": lambda net, y: net.nested["a"][0]["b"][0].add_(1),
    "dataclass": lambda net, y: (setattr(net.state, "calls", net.state.calls + 1), net.state.tables.update(a=1)),
    "dataclass with slots": lambda net, y: setattr(net.slots, "calls", net.slots.calls + 1),
    "object in an object": lambda net, y: (net.plain.inner.tables.update(a=1), net.plain.history[0].append(1)),
    "array": lambda net, y: net.array.__iadd__(1),
    "generator": lambda net, y: torch.rand(3, generator=net.generator),
    "class dict": lambda net, y: net.shared.update({len(net.shared): torch.ones(6)}),
    "class counter": lambda net, y: setattr(type(net), "total", type(net).total + 1),
    "counter": lambda net, y: setattr(net, "calls", getattr(net, "calls", 0) + 1),
    "other tensor": lambda net, y: setattr(net, "places", torch.arange(6)),
    "buffer": lambda net, y: net.seen.add_(1),
    "parameter": lambda net, y: net.scale.data.clamp_(max=1.0),
    "memory of a parameter": replaced,
    "module of a list": lambda net, y: setattr(net.hidden[0], "counter", net.hidden[0].counter + 1),
    "parameter of a module of a list": lambda net, y: net.hidden[0].bias.data.fill_(3.0),
    "new module": lambda net, y: setattr(net, f"layer_{len(list(net.children()))}", nn.Linear(2, 2)),
    "hook": lambda net, y: net.one.register_forward_hook(lambda *_: None),
    "cached function": lambda net, y: net.table(6),
}


def picture(value: Any, seen: dict[int, int]) -> Any:
    """Returns what is reached from a value, as plain data: an account of its own of what ``Snapshot`` looks at."""
    if id(value) in seen:
        return ("again", seen[id(value)])
    if isinstance(value, (int, float, str, bool, type(None), torch.dtype)) or (
        callable(value) and not isinstance(value, nn.Module)
    ):
        return value
    seen[id(value)] = len(seen)
    here = (id(value), type(value).__name__)
    if isinstance(value, Tensor):
        return (*here, value.data_ptr(), value.tolist())
    if isinstance(value, np.ndarray):
        return (*here, value.tolist())
    if isinstance(value, torch.Generator):
        return (*here, value.get_state().tolist())
    if isinstance(value, (dict, UserDict)):
        return (*here, [(picture(key, seen), picture(entry, seen)) for key, entry in value.items()])
    if isinstance(value, (list, tuple, deque, set)):
        return (*here, [picture(entry, seen) for entry in value])
    if isinstance(value, Slots):
        return (*here, value.calls, picture(value.last, seen))
    return (*here, picture(vars(value), seen))


def whole(net: Net) -> Any:
    return (
        picture(vars(net), {}),
        picture(Net.shared, {}),
        Net.total,
        Net.table.cache_info().currsize,
        torch.get_rng_state().sum(),
    )


@pytest.mark.parametrize("name", WRITES)
def test_what_a_forward_writes_is_taken_back(name: str) -> None:
    net = Net(WRITES[name])
    before = whole(net)
    with undisturbed(net):
        net(torch.randn(3, 6))
        net(torch.randn(2, 6))
        assert whole(net) != before
    assert whole(net) == before


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(sorted(WRITES)), min_size=2, max_size=6))
def test_writes_in_any_order(names: list[str]) -> None:
    def write(net: Net, y: Tensor) -> None:
        for name in names:
            with suppress(LookupError, AttributeError):  # an earlier write may have taken what this one changes
                WRITES[name](net, y)

    net = Net(write)
    before = whole(net)
    with undisturbed(net):
        net(torch.randn(3, 6))
    assert whole(net) == before


def test_what_a_forward_writes_before_it_fails_is_taken_back() -> None:
    def fail(net: Net, y: Tensor) -> None:
        net.dict["new"] = 1
        raise KeyError("x")

    net = Net(fail)
    before = whole(net)
    with pytest.raises(KeyError), undisturbed(net):
        net(torch.randn(3, 6))
    assert whole(net) == before


def cached(net: Net, y: Tensor) -> None:
    if y.shape[1] not in net.dict:
        net.dict[y.shape[1]] = torch.arange(float(y.shape[1]))
    net.state.tables.setdefault("positions", net.dict[y.shape[1]])
    net.state.calls += 1
    net.list.append(y)


def test_a_quantized_model_leaves_no_trace_in_its_caches() -> None:
    net = Net(cached).eval()
    before = whole(net)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    qpass.quantize_graph(net, [x], "w8a8", progress=False)
    assert whole(net) == before
    assert net(x).shape == (4, 6)
    assert type(net.list[-1]) is Tensor
