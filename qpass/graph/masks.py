"""Finds the tensors that only say what is masked, and the range of their values.

They are computed from booleans, from inputs and constants of two values, and from numbers: a mask
itself, ``1 - mask``, ``mask * -1e4``, a causal matrix of 0 and -1e9.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from qpass.graph.edit import MOVEMENT_OPS, argument, aten, dtype_of, example_inputs, flat_inputs, get_constant
from qpass.graph.fill_values import repeated_fills

#: The least and the largest value of a tensor.
Range = tuple[float, float]

#: Operators whose result holds some or all of the values of their inputs.
KEEPS_VALUES = frozenset(
    {
        *(operator.overloadpacket for operator in MOVEMENT_OPS),
        *(aten.to, aten._to_copy, aten.detach, aten.alias, aten.lift_fresh_copy, aten.expand_as, aten.squeeze, aten.repeat),
        *(aten.slice, aten.select, aten.index, aten.index_select, aten.gather, aten.narrow, aten.flip, aten.roll),
        *(aten.chunk, aten.split, aten.split_with_sizes, aten.unbind, aten.cat, aten.stack, aten.view_as, aten.movedim),
        *(aten.where, aten.masked_fill, aten.index_put, aten.index_fill, aten.scatter, aten.constant_pad_nd, aten.pad),
        *(aten.maximum, aten.minimum, aten.slice_scatter, aten.select_scatter, aten.unsqueeze, aten.clone),
    }
)
#: Operators that set a part of their input to zero.
_TRIANGLES = (aten.tril, aten.triu)
#: Operators whose constants are weights, and too large to look through.
_READ_WEIGHTS = (aten.linear, aten.conv1d, aten.conv2d, aten.conv3d, aten.layer_norm, aten.embedding)
#: Operators that make a tensor of one value: the position of the value, or the value.
_MADE: Mapping[Any, tuple[int | None, float]] = {
    **dict.fromkeys((aten.full, aten.full_like), (1, 0.0)),
    aten.new_full: (2, 0.0),
    aten.scalar_tensor: (0, 0.0),
    **dict.fromkeys((aten.zeros, aten.zeros_like, aten.new_zeros), (None, 0.0)),
    **dict.fromkeys((aten.ones, aten.ones_like, aten.new_ones), (None, 1.0)),
}


def mask_ranges(graph_module: fx.GraphModule) -> dict[fx.Node, Range]:
    """Returns the range of each tensor that holds masks and numbers only."""
    leaves = flat_inputs(graph_module, *example_inputs(graph_module))
    inputs = iter(leaves)
    found: dict[fx.Node, Range] = {}
    for node in graph_module.graph.nodes:
        range_ = _of_input(next(inputs)) if node.op == "placeholder" else _of_node(graph_module, node, found)
        if range_ is not None:
            found[node] = range_
    return found


def _of_input(value: Any) -> Range | None:
    """Returns the range of an input that is a mask on the example inputs.

    Nothing tells what an input of zeros holds elsewhere. Added to features, it is a mask that hides
    nothing here.
    """
    if not isinstance(value, Tensor) or value.is_complex():
        return None
    if value.dtype == torch.bool:
        return 0.0, 1.0
    if value.is_floating_point() and not value.any():
        return -math.inf, 0.0
    return two_values(value)


def _of_node(graph_module: fx.GraphModule, node: fx.Node, found: Mapping[fx.Node, Range]) -> Range | None:
    if dtype_of(node) == torch.bool:
        return 0.0, 1.0
    if node.op == "get_attr":
        value = None if all(packet_of(user) in _READ_WEIGHTS for user in node.users) else get_constant(graph_module, node)
        if value is None or value.is_complex():
            return None
        return _ends(value) if value.is_floating_point() and repeated_fills(value).any() else two_values(value)
    packet = packet_of(node)
    if packet in _MADE:
        index, number = _MADE[packet]
        return range_of(number if index is None else argument(node, index, "fill_value", number), {})
    if packet is None or not node.all_input_nodes or any(source not in found for source in _tensors(node)):
        return None
    return combine(node, packet, [range_of(value, found) for value in values(node, packet)])


def two_values(value: Tensor) -> Range | None:
    """Returns the range of a tensor of one value, of ones, or of no other values than 0 and one more."""
    if value.numel() == 0:
        return None
    low, high = _ends(value)
    if value.numel() == 1 or (low, high) == (1.0, 1.0) or (low * high == 0 and bool(((value == low) | (value == high)).all())):
        return low, high
    return None


def combine(node: fx.Node, packet: Any, ranges: list[Range | None]) -> Range | None:
    """Returns the range of an operator's result, or None if unknown.

    Args:
        node: A call.
        packet: Its operator, without the overload.
        ranges: Ranges of its ``values``; None where unknown.
    """
    if not ranges or any(each is None for each in ranges):
        return None
    known = [each for each in ranges if each is not None]
    first, last = known[0], known[-1]
    if packet in KEEPS_VALUES:
        return min(low for low, _ in known), max(high for _, high in known)
    if packet in _TRIANGLES:
        return min(first[0], 0.0), max(first[1], 0.0)
    if packet is aten.neg:
        return -first[1], -first[0]
    if packet is aten.abs:
        return 0.0, max(map(abs, first))
    if packet in (aten.add, aten.sub, aten.rsub):
        alpha = node.kwargs.get("alpha", 1)
        factor = float(alpha) if isinstance(alpha, int | float) else 1.0
        if packet is aten.rsub:
            first, last = last, first
        scaled = _product(last, (factor, factor) if packet is aten.add else (-factor, -factor))
        return first[0] + scaled[0], first[1] + scaled[1]
    if packet is aten.mul:
        return _product(first, last)
    if packet is aten.div and last[0] == last[1] != 0:
        return _product(first, (1 / last[0], 1 / last[0]))
    if packet is aten.log and len(known) == 1:
        low, high = (math.log(end) if end > 0 else -math.inf for end in first)
        return low, high
    return None


def values(node: fx.Node, packet: Any) -> list[Any]:
    """Returns the arguments whose values the result is computed from, without conditions and dims."""
    args = list(node.args)
    if packet is aten.where:
        return args[1:3]
    if packet is aten.masked_fill:
        return [args[0], args[2]]
    if packet is aten.index_put:
        return [args[0], args[2]]
    if packet in (aten.index_fill, aten.scatter):
        return [args[0], args[3]]
    if packet is aten.pad:
        return [args[0], argument(node, 3, "value", 0) or 0]
    if packet is aten.constant_pad_nd:
        return [args[0], argument(node, 2, "value", 0)]
    if packet in (aten.cat, aten.stack):
        return list(args[0])  # type: ignore[arg-type]
    if packet in (aten.add, aten.sub, aten.rsub, aten.mul, aten.div, aten.maximum, aten.minimum):
        return args[:2]
    if packet in (aten.slice_scatter, aten.select_scatter):
        return args[:2]
    return args[:1]


def range_of(value: Any, found: Mapping[fx.Node, Range]) -> Range | None:
    """Returns the range of an argument: a number, or a node whose range is known."""
    if isinstance(value, fx.Node):
        return found.get(value)
    return (float(value), float(value)) if isinstance(value, int | float) else None


def packet_of(node: fx.Node) -> Any:
    """Returns the operator that a node calls, without the overload; None for other nodes."""
    return getattr(node.target, "overloadpacket", None) if node.op == "call_function" else None


def _tensors(node: fx.Node) -> list[fx.Node]:
    """Returns a call's arguments that are tensors or tuples of them, rather than sizes."""
    return [source for source in node.all_input_nodes if isinstance(source.meta.get("result"), Tensor | list | tuple)]


def _ends(value: Tensor) -> Range:
    return float(value.min()), float(value.max())


def _product(a: Range, b: Range) -> Range:
    products = [0.0 if x == 0 or y == 0 else x * y for x in a for y in b]
    return min(products), max(products)
