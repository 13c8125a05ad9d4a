"""Applies a rule once, and compares the graph with the model itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from qpass.graph.capture.trace import trace
from qpass.graph.edit import calls, finish, record_shapes
from qpass.graph.fx_rule import FxRule


class Call(nn.Module):
    """A module around a function, with constants of its own."""

    def __init__(self, function: Callable[..., Tensor], **constants: Tensor) -> None:
        super().__init__()
        self.function = function
        for name, value in constants.items():
            self.register_buffer(name, value)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self, *inputs)


def apply(rule: FxRule, model: nn.Module, *inputs: Tensor) -> tuple[fx.GraphModule, int]:
    """Applies a rule once and checks that the model's own numbers are kept, twice in a row and on other inputs."""
    others = tuple(x.roll(1, 0) for x in inputs)
    expected, expected_of_others = model.eval()(*inputs), model(*others)
    graph = trace(model, inputs)
    count = rule.apply(graph).count
    finish(graph)
    for _ in range(2):
        torch.testing.assert_close(graph(*inputs), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(graph(*others), expected_of_others, rtol=1e-5, atol=1e-5)
    record_shapes(graph)
    return graph, count


def seeded(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def count(graph: fx.GraphModule, *targets: object) -> int:
    return len(list(calls(graph, *targets)))
