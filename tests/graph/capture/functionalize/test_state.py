"""Buffers that a model writes into."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from qpass.errors import TraceError
from qpass.graph.capture.trace import trace
from tests.writing_programs import Call

STATEFUL: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "a counter that scales": lambda m, x: x * m.buffer.add_(1)[0],
    "a running mean": lambda m, x: x - m.buffer.mul_(0.9).add_(x.mean(0), alpha=0.1),
    "what the last call left": lambda m, x: (x + m.buffer, m.buffer.copy_(x.mean(0)))[0],
    "read before it is filled": lambda m, x: (x * m.buffer[0], m.buffer.fill_(3))[0],
    "one row of it": lambda m, x: (x * m.buffer[1:2], m.buffer[1].add_(1))[0],
}
STATELESS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "a counter that nobody reads": lambda m, x: (m.buffer.add_(1), x * 2)[1],
    "written before it is read": lambda m, x: x + m.buffer.copy_(x.mean(0)) * m.buffer,
    "parts written before they are read": lambda m, x: (m.buffer[:2].copy_(x[:, :2].mean(0)), x[:, :2] * m.buffer[:2])[1],
    "the same value each time": lambda m, x: (m.buffer[0].fill_(0), x * m.buffer)[1],
    "another row": lambda m, x: (m.buffer[0].add_(1), x * m.buffer[1])[1],
    "a copy": lambda m, x: x + m.buffer.clone().add_(x.mean(0)),
    "a constant of the forward": lambda m, x: x + torch.tensor([1.0, 2.0, 3.0]).add_(x.mean()),
    "a constant that is made once": lambda m, x: x + torch.arange(3.0).mul_(2).add_(x.amax()),
}


def buffer() -> Tensor:
    return torch.tensor([0.5, -1.0, 2.0])


@pytest.mark.parametrize("function", STATEFUL.values(), ids=STATEFUL)
def test_outputs_that_depend_on_former_calls_are_refused(function: Callable[..., Tensor]) -> None:
    model = Call(function, buffer=buffer()).eval()
    with pytest.raises(TraceError, match="buffer: its outputs depend on what former calls wrote into it"):
        trace(model, (torch.randn(3, 3),))


@pytest.mark.parametrize("function", STATELESS.values(), ids=STATELESS)
def test_other_writes_into_buffers_are_left_out(function: Callable[..., Tensor]) -> None:
    model, x = Call(function, buffer=buffer()).eval(), torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    graph = trace(model, (x,))
    for rows in (3, 1, 1, 4):
        torch.testing.assert_close(graph(x[:rows]), model(x[:rows]))


@pytest.mark.parametrize("training", [True, False])
def test_a_norm_that_updates_its_statistics(training: bool) -> None:
    mean, variance = torch.zeros(3), torch.ones(3)
    function = lambda m, x: torch.nn.functional.batch_norm(x, m.mean, m.variance, training=training)  # noqa: E731
    model, x = Call(function, mean=mean, variance=variance).eval(), torch.randn(4, 3)
    graph = trace(model, (x,))
    for _ in range(2):
        torch.testing.assert_close(
            graph(x), torch.nn.functional.batch_norm(x, mean.clone(), variance.clone(), training=training)
        )
