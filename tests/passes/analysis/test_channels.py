"""Channels of a Linear behind any movement, against a Linear that gives each channel its own number."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten, calls, record_shapes
from qpass.passes.analysis.channels import channels_from, channels_into

Move = Callable[[Tensor], Tensor]


class Numbered(nn.Module):
    """A Linear whose output is the number of the channel, moved and marked by a sine."""

    def __init__(self, move: Move, channels: int = 12) -> None:
        super().__init__()
        self.linear, self.move = nn.Linear(4, channels), move
        with torch.no_grad():
            self.linear.weight.zero_()
            self.linear.bias.copy_(torch.arange(float(channels)))

    def forward(self, x: Tensor) -> Tensor:
        return self.move(self.linear(x)).sin()


def moved(move: Move) -> fx.Node:
    graph = trace(Numbered(move).eval(), (torch.randn(2, 5, 4),))
    record_shapes(graph)
    return next(calls(graph, aten.sin.default)).args[0]  # type: ignore[return-value]


MOVES: dict[str, Move] = {
    "nothing": lambda y: y,
    "heads": lambda y: y.unflatten(-1, (3, 4)).transpose(1, 2),
    "a key": lambda y: y.view(2, 5, 3, 4).permute(0, 2, 3, 1),
    "a chunk": lambda y: y.chunk(3, -1)[1].unflatten(-1, (2, 2)),
    "a part": lambda y: y.split([2, 6, 4], -1)[1].transpose(1, 2).contiguous(),
    "scaled heads": lambda y: y.unflatten(-1, (3, 4)).transpose(1, 2) * 1.0,
}


@pytest.mark.parametrize("move", MOVES)
def test_each_element_has_the_channel_that_it_comes_from(move: str) -> None:
    value = moved(MOVES[move])
    found = channels_from(value)
    assert found is not None
    linear, channels = found
    assert linear.target is aten.linear.default
    expected = MOVES[move](torch.arange(12.0).expand(2, 5, 12))
    assert torch.equal(channels.expand(expected.shape), expected.long())


OTHERS: dict[str, Move] = {
    "another function": lambda y: y.relu(),
    "a sum": lambda y: y + y.roll(1, -1),
    "a mean": lambda y: y.mean(1),
    "a factor that is no number": lambda y: y * y.sum(),
    "a part that is taken twice": lambda y: (parts := y.chunk(2, -1))[0] * 1 + parts[0].exp(),
}


@pytest.mark.parametrize("move", OTHERS)
def test_what_is_more_than_moved_has_no_channels(move: str) -> None:
    value = moved(OTHERS[move])
    assert channels_from(value) is None


class Reader(nn.Module):
    """Adds a number to each input channel of a Linear before it is moved."""

    def __init__(self, move: Move, width: int = 12, second: bool = False) -> None:
        super().__init__()
        self.move, self.linear, self.second = move, nn.Linear(width, 3), second

    def forward(self, x: Tensor) -> Tensor:
        y = x.sin()
        z = self.linear(self.move(y))
        return z + y.sum() if self.second else z


@pytest.mark.parametrize(
    ("move", "same"),
    [
        (lambda y: y.transpose(1, 2).reshape(2, 5, 12), True),
        (lambda y: y.transpose(1, 2).flatten(2) * 2.0, True),
        (lambda y: y.reshape(2, 5, 12), False),
        (lambda y: y.transpose(1, 2).reshape(2, 5, 12).exp(), False),
    ],
    ids=["heads are merged", "and scaled", "tokens are mixed with channels", "a function"],
)
def test_the_inputs_of_the_reader_are_the_same_channels_for_every_token(move: Move, same: bool) -> None:
    graph = trace(Reader(move).eval(), (torch.randn(2, 3, 5, 4),))
    record_shapes(graph)
    numbers = torch.arange(12).reshape(1, 3, 1, 4).expand(2, 3, 5, 4)
    found = channels_into(next(calls(graph, aten.sin.default)), numbers)
    assert (found is not None) == same
    if found is not None:
        assert torch.equal(found[1], torch.arange(12))


def test_a_tensor_that_others_read_has_no_reader_of_its_own() -> None:
    graph = trace(Reader(lambda y: y, 4, second=True).eval(), (torch.randn(2, 3, 4),))
    record_shapes(graph)
    assert channels_into(next(calls(graph, aten.sin.default)), torch.arange(4).expand(2, 3, 4)) is None
