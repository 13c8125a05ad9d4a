"""The first module whose output differs is named, unless the difference is undone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

import qpass.graph.source_check.module_outputs as module_outputs
from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten, calls, module_path
from qpass.graph.source_check.module_outputs import ModuleErrors, recorded_outputs
from qpass.runtime.storage import Storage


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.three = (nn.Linear(4, 4) for _ in range(3))
        self.twice = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.three(self.twice(self.two(self.twice(self.one(x)))))


X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def recorded(model: nn.Module) -> dict[str, Tensor]:
    with recorded_outputs(model, Storage()) as found:
        model(X)
    return {path: kept.read() for path, kept in found.items()}


def test_modules_that_are_called_once_are_recorded_and_no_hook_is_left() -> None:
    model = Model()
    found = recorded(model)
    assert set(found) == {"", "one", "two", "three"}
    assert torch.equal(found["one"], model.one(X))
    assert not any(module._forward_hooks for module in model.modules())


def test_what_does_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_outputs, "MOST_BYTES", X.nbytes)
    assert set(recorded(Model())) == {"one"}


CHANGES: dict[str, tuple[Callable[[fx.GraphModule], object], str | None]] = {
    "nothing": (lambda graph: None, None),
    "the second": (lambda graph: graph.two.weight.mul_(2), "two"),
    "the first, undone by the next": (lambda graph: (graph.one.weight.add_(7), graph.one.weight.add_(-7)), None),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_first_module_that_differs_is_found(change: str) -> None:
    model = Model().eval()
    graph = trace(model, (X,))
    with recorded_outputs(model, Storage()) as expected:
        model(X)
    apply, path = CHANGES[change]
    with torch.no_grad():
        apply(graph)
    run = ModuleErrors(graph, expected)
    run.run(X)
    node = run.first_difference(["one", "two", "three"])
    assert (None if node is None else module_path(node)) == path
    assert run.first_difference([]) is None, "no module that agreed before"


def test_a_difference_that_its_readers_undo_is_none() -> None:
    """As inside of a rotated stream: the output of one layer is another, and the next agrees again."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).eval()
    graph = trace(model, (X,))
    with recorded_outputs(model, Storage()) as expected:
        model(X)
    with torch.no_grad():
        graph.get_parameter("0.weight").mul_(2)
        graph.get_parameter("0.bias").mul_(2)
        graph.get_parameter("1.weight").div_(2)
    run = ModuleErrors(graph, expected)
    run.run(X)
    first, second = calls(graph, aten.linear.default)
    assert run.errors[first] > 0.5
    assert run.agreeing == {second}
    assert run.first_difference(["0", "1"]) is None
