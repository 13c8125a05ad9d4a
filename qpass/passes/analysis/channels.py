"""Maps a tensor's elements to a Linear's channels by sending channel numbers through the graph."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from qpass.graph.edit import COPIES, RESHAPES, TRANSPOSES, aten, is_call, shape_of

_SPLITS = (aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default)
_SCALINGS = (aten.mul.Tensor, aten.div.Tensor, aten.mul.Scalar, aten.div.Scalar)


def channels_from(value: fx.Node) -> tuple[fx.Node, Tensor] | None:
    """Returns the Linear whose moved or scaled output a tensor is, and each element's channel.

    None if something else computes the tensor, or if it has other readers.
    """
    path: list[fx.Node] = []
    while not is_call(value, aten.linear.default):
        if value.op != "call_function" or not (len(value.users) == 1 or _is_split_once(value)):
            return None
        if not value.args or not isinstance(value.args[0], fx.Node):
            return None
        path.append(value)
        value = value.args[0]
    shape = shape_of(value)
    if len(value.users) != 1 or not shape:
        return None
    channels: Any = torch.arange(shape[-1]).expand(shape)
    for node in reversed(path):
        channels = _moved(node, channels)
        if channels is None:
            return None
    return value, channels


def channels_into(value: fx.Node, channels: Tensor) -> tuple[fx.Node, Tensor] | None:
    """Returns the Linear that alone reads a (possibly moved) tensor, and the channel of each input: (in,).

    None if there is no such Linear, or if its inputs are not the same channels for every token.
    """
    while len(value.users) == 1:
        (value,) = value.users
        if is_call(value, aten.linear.default):
            rows = channels.reshape(-1, channels.shape[-1])
            return (value, rows[0]) if torch.equal(rows, rows[:1].expand_as(rows)) else None
        moved = _moved(value, channels)
        if not isinstance(moved, Tensor):
            return None
        channels = moved
    return None


def _is_split_once(node: fx.Node) -> bool:
    """Returns whether a tensor is split into parts and no part is taken twice."""
    parts = [user.args[1] for user in node.users if is_call(user, operator.getitem)]
    return is_call(node, *_SPLITS) and len(parts) == len(node.users) == len(set(parts))


def moved(node: fx.Node, elements: Any) -> Any:
    """Returns the elements as a reshape, transpose or copy moves them, or None for other operators."""
    if is_call(node, *RESHAPES):
        return elements.reshape(shape_of(node))
    if is_call(node, *TRANSPOSES):
        return node.target(elements, *node.args[1:])  # type: ignore[operator]
    return elements if is_call(node, *COPIES) else None


def _moved(node: fx.Node, channels: Any) -> Any:
    """Returns the channel numbers after an operator; None if it does more than move or scale its input."""
    if is_call(node, *_SPLITS):
        return node.target(channels, *node.args[1:])  # type: ignore[operator]
    if is_call(node, operator.getitem):
        return channels[node.args[1]]
    scales = is_call(node, *_SCALINGS) and not isinstance(node.args[1], fx.Node)
    return channels if scales else moved(node, channels)
