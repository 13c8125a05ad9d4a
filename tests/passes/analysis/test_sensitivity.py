"""Against the Jacobian of a small network, written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qpass.data import ModelInputs
from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten, calls
from qpass.passes.analysis.sensitivity import output_errors


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.tanh(self.one(x)))


@pytest.fixture(scope="module")
def small() -> nn.Module:
    torch.manual_seed(0)
    return Small().eval()


def test_it_is_the_norm_of_the_jacobian_times_the_error(small: nn.Module) -> None:
    x = torch.randn(512, 6, generator=torch.Generator().manual_seed(1))
    graph = trace(small, (x[:4],))
    tanh, first = next(calls(graph, aten.tanh.default)), next(calls(graph, aten.linear.default))
    error = lambda values: 0.1 * values  # noqa: E731
    batches = [ModelInputs((part,), {}) for part in x.split(64)]
    found = output_errors(graph, {tanh: [error, lambda values: 0.2 * values]}, batches)[tanh]

    hidden = small.one(x)
    change = (0.1 * hidden) @ small.two.weight.T  # what reads the tanh is linear
    expected = (change.square().sum() / small(x).square().sum()).item()
    assert found[0] == pytest.approx(expected, rel=0.1), "an estimate from 512 draws"
    assert found[1] == pytest.approx(4 * found[0], rel=1e-5)

    bent = output_errors(graph, {first: [lambda values: torch.full((len(values), 8), 0.01)]}, batches)[first][0]
    change = ((1 - hidden.tanh().square()) * 0.01) @ small.two.weight.T
    assert bent == pytest.approx((change.square().sum() / small(x).square().sum()).item(), rel=0.1)


def test_other_readers_of_a_tensor_do_not_count(small: nn.Module) -> None:
    """The error of the product's first factor alone, where the second is the same tensor."""

    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x) @ x.transpose(-1, -2)

    x = torch.randn(256, 3, 4, generator=torch.Generator().manual_seed(1)).abs()
    graph = trace(Twice(), (x,))
    relu = next(calls(graph, aten.relu.default))
    found = output_errors(graph, {relu: [lambda values: 0.1 * values]}, [ModelInputs((x,), {})])[relu]
    assert found[0] == pytest.approx(0.01, rel=0.25)


@pytest.mark.parametrize("first", [True, False])
def test_a_graph_that_goes_on_in_place(first: bool) -> None:
    """What is kept is what the node read and gave, not what became of it."""

    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.before, self.linear = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.relu_(self.linear(x if first else self.before(x))).mul_(2)

    model, x = InPlace().eval(), torch.randn(256, 6, generator=torch.Generator().manual_seed(1))
    graph = trace(model, (x,))
    linear = list(calls(graph, aten.linear.default))[-1]
    found = output_errors(graph, {linear: [lambda values: 0.01 * values]}, [ModelInputs((x,), {})])[linear][0]
    read = x if first else model.before(x)
    change = 2 * 0.01 * read * (model.linear(read) > 0)
    assert found == pytest.approx((change.square().sum() / model(x).square().sum()).item(), rel=0.2)


def test_whole_numbers_are_not_changed_by_small_errors() -> None:
    class Label(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x).argmax(-1)

    x = torch.randn(8, 4)
    graph = trace(Label(), (x,))
    relu = next(calls(graph, aten.relu.default))
    assert output_errors(graph, {relu: [lambda values: values]}, [ModelInputs((x,), {})])[relu] == [0.0]


def test_what_the_output_does_not_depend_on_has_no_error() -> None:
    class Unused(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x * 2, torch.relu(x).detach()

    x = torch.randn(8, 4)
    graph = trace(Unused(), (x,))
    relu = next(calls(graph, aten.relu.default), None)
    assert relu is not None
    double = next(calls(graph, aten.mul.Tensor))
    found = output_errors(graph, {double: [lambda values: values], relu: [torch.zeros_like]}, [ModelInputs((x,), {})])
    assert found[relu] == [0.0]
    assert found[double][0] > 0


def test_a_tensor_that_mixes_samples_counts_as_one() -> None:
    """Two samples leave three sums: the products of all signs are added before they are squared."""

    class Mixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(torch.cat([x, x.sum(0, keepdim=True)]))

    x = torch.rand(2, 5, generator=torch.Generator().manual_seed(1)) + 1
    graph = trace(Mixed(), (x,))
    relu = next(calls(graph, aten.relu.default))
    batches = [ModelInputs((x,), {})] * 400
    found = output_errors(graph, {relu: [lambda values: 0.1 * values]}, batches)[relu]
    assert found[0] == pytest.approx(0.01, rel=0.25)
