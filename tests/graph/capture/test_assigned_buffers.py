"""Buffers that a forward assigns or registers, beside buffers that are None."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.export import _trace

from qpass.errors import SourceError
from qpass.graph.capture.assigned_buffers import without_assigned_buffers
from qpass.graph.capture.trace import trace
from tests.contracts.judge import quantized
from tests.writing_programs import Call


def assigned(model: Call, x: Tensor) -> Tensor:
    model.last = x.mean(0)
    return x * model.table  # type: ignore[operator]


def assigned_to_the_input(model: Call, x: Tensor) -> Tensor:
    model.last = x
    return x * 2


def registered(model: Call, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    model.register_buffer("positions", torch.arange(5.0).sin(), persistent=False)
    return x + model.positions.mean(), model.positions, x  # type: ignore[operator]


def registered_once(model: Call, x: Tensor) -> Tensor:
    if model.mask is None:
        model.register_buffer("mask", torch.ones(3, 3).tril(), persistent=False)
    return x @ model.mask  # type: ignore[operator]


@pytest.mark.parametrize("function", [assigned, assigned_to_the_input, registered, registered_once])
def test_buffers_that_a_forward_assigns_or_registers(function: Callable[..., object]) -> None:
    table = torch.tensor([0.5, -1.0, 2.0])
    model = Call(function, mask=None, one=None, two=None, last=torch.zeros(3), table=table).eval()
    graph = trace(model, (torch.randn(4, 3),))
    assert model.mask is None
    assert not hasattr(model, "positions")
    for rows in (3, 1, 1, 4):
        x = torch.randn(rows, 3, generator=torch.Generator().manual_seed(rows))
        torch.testing.assert_close(graph(x.clone()), model(x))


def test_state_in_an_assigned_buffer_is_refused() -> None:
    def forward(model: Call, x: Tensor) -> Tensor:
        model.last = model.last + 1  # type: ignore[operator]
        return torch.nn.functional.linear(x, model.weight) * model.last  # type: ignore[arg-type, operator]

    with pytest.raises(SourceError, match="when it is called again"):
        quantized(Call(forward, none=None, last=torch.zeros(3), weight=torch.ones(3, 3)), [torch.randn(4, 3)])


def test_torch_is_as_it_was_afterwards() -> None:
    own = _trace.register_buffer_assignment_hook, _trace._graph_input_names
    with without_assigned_buffers():
        assert _trace.register_buffer_assignment_hook is not own[0]
    with pytest.raises(ZeroDivisionError), without_assigned_buffers():
        1 / 0  # noqa: B018
    assert (_trace.register_buffer_assignment_hook, _trace._graph_input_names) == own


def test_a_torch_without_them_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(_trace, "_graph_input_names")
    with without_assigned_buffers():
        assert not hasattr(_trace, "_graph_input_names")
