"""batch_norm(linear(x, W, b)) -> linear(x, W', b'), also for convolutions and across data movement."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from qpass.graph.edit import COPIES, RESHAPES, TRANSPOSES, aten, get_constant, input_node, is_call, shape_of
from qpass.graph.fx_rule import fx_rule
from qpass.graph.rewrite import Decline
from qpass.passes.analysis.channels import moved
from qpass.passes.analysis.layer_weights import LayerWeights


@fx_rule(aten.batch_norm.default)
def fold_batch_norm(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node:
    """Folds a BatchNorm that is the only reader of a Linear or convolution with constant weights."""
    if node.args[5]:
        raise Decline("it is in train mode")
    layer, weights, (factor, shift) = _layer_below(node), LayerWeights(graph_module), _factors(graph_module, node)
    if not weights.read(layer):
        raise Decline("the layer below it has a computed weight or bias, or a bias that broadcasts")
    weight, bias = weights[layer]
    weight *= factor[:, None]
    bias *= factor
    bias += shift
    weights.write("with_batch_norm")
    return input_node(node, 0)


def _layer_below(node: fx.Node) -> fx.Node:
    """Returns the layer whose output channels are those of the BatchNorm."""
    below, path = input_node(node, 0), []
    while is_call(below, *RESHAPES, *TRANSPOSES, *COPIES) and len(below.users) == 1:
        path.append(below)
        below = input_node(below, 0)
    shape, channels = shape_of(below), shape_of(node)
    axis = None if shape is None else _channel_axis(below, len(shape))
    if shape is None or channels is None or axis is None:
        raise Decline("no Linear or convolution computes its input")
    if len(below.users) != 1:
        raise Decline("the layer below it has another reader")
    if shape[axis] != channels[1]:
        raise Decline("its channels are not those of the layer below it")
    # Sizes may be equal by chance: trace every element's channel through the operators in between.
    elements = torch.arange(shape[axis]).reshape([-1 if dim == axis else 1 for dim in range(len(shape))]).expand(shape)
    for move in reversed(path):
        elements = moved(move, elements)  # type: ignore[assignment]
    wanted = torch.arange(channels[1]).reshape(1, -1, *[1] * (len(channels) - 2))
    if not torch.equal(elements, wanted.expand(channels)):
        raise Decline("its channels are not those of the layer below it")
    return below


def _channel_axis(layer: fx.Node, dims: int) -> int | None:
    """Returns the channel dim of a layer's output; None if not a Linear or a convolution of a batch."""
    if is_call(layer, aten.linear.default):
        return dims - 1
    packet: Any = getattr(layer.target, "overloadpacket", None)
    spatial = {aten.conv1d: 1, aten.conv2d: 2, aten.conv3d: 3}.get(packet)
    return 1 if spatial is not None and dims == spatial + 2 else None


def _factors(graph_module: fx.GraphModule, node: fx.Node) -> tuple[Tensor, Tensor]:
    """Returns a and c of y = a x + c for each channel, in float64."""
    values = [get_constant(graph_module, argument) for argument in node.args[1:5]]
    gamma, beta, mean, variance = (None if value is None else value.double() for value in values)
    missing = any(value is None and argument is not None for value, argument in zip(values, node.args[1:5], strict=True))
    if missing or mean is None or variance is None:
        raise Decline("its statistics or weights are computed, not constants")
    factor = 1 / torch.sqrt(variance + node.args[7])  # type: ignore[operator]
    factor = factor if gamma is None else factor * gamma
    return factor, -mean * factor if beta is None else beta - mean * factor
