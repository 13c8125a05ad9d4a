"""Finds the tensors in which a mask fills values such as -1e4 beside others.

No scale fits both: it would round the others away, or clip the fills, which then mask nothing.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from qpass.graph.edit import argument, aten, dtype_of
from qpass.graph.masks import Range, combine, mask_ranges, packet_of, range_of, values
from qpass.graph.signature.outputs import is_tensor_output, output_leaves

#: Values that a mask writes are fills from this magnitude on. Features are rarely as large, and
#: what hides a logit has to be larger than every logit: 50, 100, 1e4, ...
LEAST_FILL = 50.0

#: Operators whose results are bounded or normalized: a fill becomes an ordinary value.
_ENDS = frozenset(
    {
        *(aten.softmax, aten._softmax, aten._safe_softmax, aten.sigmoid, aten.tanh, aten.hardsigmoid, aten.erf, aten.sign),
        *(aten.layer_norm, aten.native_layer_norm, aten.group_norm, aten.rms_norm, aten.sin, aten.cos, aten.argmax),
        *(aten.hardtanh, aten.relu6, aten.zeros_like, aten.ones_like, aten.full_like, aten.empty_like, aten.new_zeros),
        *(aten.new_ones, aten.new_full, aten.sym_size, aten.nan_to_num),
    }
)
#: Operators that pass no large negative value on: the largest of several values is not a fill,
#: unless all of them are.
_WITHOUT_LOW = frozenset(
    {
        *(aten.relu, aten.gelu, aten.silu, aten.elu, aten.selu, aten.celu, aten.softplus, aten.mish, aten.hardswish, aten.exp),
        *(aten.amax, aten.max, aten.topk, aten.logsumexp, aten.max_pool1d, aten.max_pool2d, aten.max_pool3d),
        *(aten.adaptive_max_pool1d, aten.adaptive_max_pool2d, aten.cummax, aten.logcumsumexp),
    }
)
_WITHOUT_HIGH = frozenset({aten.amin, aten.min, aten.cummin})
_SUMS = frozenset({aten.add, aten.sub, aten.rsub})
#: Operators that write a mask's values beside those of another tensor, or add them.
_FILLING = _SUMS | frozenset(
    {
        *(aten.where, aten.masked_fill, aten.index_put, aten.index_fill, aten.scatter),
        *(aten.constant_pad_nd, aten.pad, aten.cat, aten.stack, aten.maximum, aten.minimum),
        *(aten.slice_scatter, aten.select_scatter),
    }
)


def filled_values(graph_module: fx.GraphModule) -> dict[fx.Node, float]:
    """Returns the float tensors into which a mask fills values, with the filled value of most magnitude.

    Fills are followed from where they are written or added until an operator bounds them, such as
    Softmax. Only constants and inputs that are masks on the example inputs are considered.
    """
    masks = mask_ranges(graph_module)
    found: dict[fx.Node, Range] = {}
    for node in graph_module.graph.nodes:
        if node.op == "call_function" and node not in masks:
            range_ = _filled(node, masks, found)
            if range_ is not None and _most(range_, LEAST_FILL):
                found[node] = range_
    return {node: _most(range_, LEAST_FILL) for node, range_ in found.items()}


def filled_outputs(graph_module: fx.GraphModule) -> list[bool]:
    """Returns for each output tensor whether a mask fills values into it, or is added to it."""
    filled = filled_values(graph_module)
    return [leaf in filled for leaf in output_leaves(graph_module) if is_tensor_output(leaf)]


def _filled(node: fx.Node, masks: Mapping[fx.Node, Range], found: Mapping[fx.Node, Range]) -> Range | None:
    """Returns the range of the fills in a node's result, or None if it has none."""
    if node.target is operator.getitem:
        return range_of(node.args[0], found) if _may_hold(node) else None
    packet = packet_of(node)
    if packet is None or packet in _ENDS or not _may_hold(node):
        return None
    passed = _passed(node, packet, masks, found)
    if packet not in _FILLING:
        return passed
    written = [range_of(value, masks) for value in values(node, packet)]
    if packet in _SUMS:
        written = [_added(node, packet, written)]
    ranges = [each for each in written if each is not None and _most(each, LEAST_FILL)]
    ranges += [] if passed is None else [passed]
    return (min(low for low, _ in ranges), max(high for _, high in ranges)) if ranges else None


def _added(node: fx.Node, packet: Any, written: list[Range | None]) -> Range | None:
    """Returns the range of what a mask adds to features; a number added to all fills nothing."""
    masks = [None if each is None or each[0] == each[1] else each for each in written]
    return combine(node, packet, [each or (0.0, 0.0) for each in masks]) if any(masks) else None


def _passed(node: fx.Node, packet: Any, masks: Mapping[fx.Node, Range], found: Mapping[fx.Node, Range]) -> Range | None:
    """Returns the range of the fills that a call passes on from its inputs."""
    ranges = [found[source] for source in node.all_input_nodes if source in found]
    if not ranges:
        return None
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    if packet in (aten.mul, aten.div, aten.neg, aten.rsub, aten.sub):
        known = [range_of(value, found) or range_of(value, masks) for value in values(node, packet)]
        return combine(node, packet, known) or (-max(-low, high), max(-low, high))
    if packet in _WITHOUT_LOW:
        return max(low, 0.0), max(high, 0.0)
    if packet in _WITHOUT_HIGH:
        return min(low, 0.0), min(high, 0.0)
    if packet in (aten.clamp, aten.clamp_min, aten.clamp_max):
        least, most = _bounds(node, packet)
        return min(max(low, least), most), min(max(high, least), most)
    return low, high


def _bounds(node: fx.Node, packet: Any) -> Range:
    """Returns a clamp's numbers, infinite where it has none."""
    least, most = argument(node, 1, "min"), argument(node, 2 if packet is aten.clamp else 1, "max")
    return (
        float(least) if packet is not aten.clamp_max and isinstance(least, int | float) else -math.inf,
        float(most) if packet is not aten.clamp_min and isinstance(most, int | float) else math.inf,
    )


def _may_hold(node: fx.Node) -> bool:
    """Returns whether a node gives floats, or several tensors."""
    dtype = dtype_of(node)
    return dtype.is_floating_point if isinstance(dtype, torch.dtype) else isinstance(node.meta.get("result"), tuple | list)


def _most(range_: Range, least: float) -> float:
    """Returns the end of a range with more magnitude, or 0 if it is below ``least``."""
    end = max(range_, key=abs)
    return end if abs(end) >= least else 0.0
