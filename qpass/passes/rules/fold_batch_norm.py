"""batch_norm(linear(x, W, b)) -> linear(x, W', b'), also for convolutions and across data movement."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from qpass.graph.edit import COPIES, RESHAPES, TRANSPOSES, aten, calls, get_constant, is_call, replace, shape_of
from qpass.passes.analysis.channels import moved
from qpass.passes.analysis.layer_weights import LayerWeights


def fold_batch_norm(graph_module: fx.GraphModule) -> int:
    """Folds every BatchNorm that is the only reader of a Linear or convolution with constant weights."""
    done = 0
    for node in calls(graph_module, aten.batch_norm.default):
        if node.args[5]:  # in train mode
            continue
        layer, weights, factors = _layer_below(node), LayerWeights(graph_module), _factors(graph_module, node)
        if layer is None or factors is None or not weights.read(layer):
            continue
        (weight, bias), (factor, shift) = weights[layer], factors
        weight *= factor[:, None]
        bias *= factor
        bias += shift
        weights.write("with_batch_norm")
        replace(node, node.args[0])  # type: ignore[arg-type]
        done += 1
    return done


def _layer_below(node: fx.Node) -> fx.Node | None:
    """Returns the layer whose output channels are those of the BatchNorm, or None."""
    below, path = node.args[0], []
    while is_call(below, *RESHAPES, *TRANSPOSES, *COPIES) and len(below.users) == 1:  # type: ignore[union-attr]
        path.append(below)
        below = below.args[0]  # type: ignore[union-attr]
    shape, channels = shape_of(below), shape_of(node)
    if not isinstance(below, fx.Node) or len(below.users) != 1 or shape is None or channels is None:
        return None
    axis = _channel_axis(below, len(shape))
    if axis is None or shape[axis] != channels[1]:
        return None
    # Sizes may be equal by chance: trace every element's channel through the operators in between.
    elements = torch.arange(shape[axis]).reshape([-1 if dim == axis else 1 for dim in range(len(shape))]).expand(shape)
    for move in reversed(path):
        elements = moved(move, elements)  # type: ignore[arg-type]
    wanted = torch.arange(channels[1]).reshape(1, -1, *[1] * (len(channels) - 2))
    return below if torch.equal(elements, wanted.expand(channels)) else None


def _channel_axis(layer: fx.Node, dims: int) -> int | None:
    """Returns the channel dim of a layer's output; None if not a Linear or a convolution of a batch."""
    if is_call(layer, aten.linear.default):
        return dims - 1
    packet: Any = getattr(layer.target, "overloadpacket", None)
    spatial = {aten.conv1d: 1, aten.conv2d: 2, aten.conv3d: 3}.get(packet)
    return 1 if spatial is not None and dims == spatial + 2 else None


def _factors(graph_module: fx.GraphModule, node: fx.Node) -> tuple[Tensor, Tensor] | None:
    """Returns a and c of y = a x + c for each channel, in float64, or None if they are not constants."""
    values = [get_constant(graph_module, argument) for argument in node.args[1:5]]
    if any(value is None and argument is not None for value, argument in zip(values, node.args[1:5], strict=True)):
        return None
    gamma, beta, mean, variance = (None if value is None else value.double() for value in values)
    if mean is None or variance is None:
        return None
    factor = 1 / torch.sqrt(variance + node.args[7])  # type: ignore[operator]
    factor = factor if gamma is None else factor * gamma
    return factor, -mean * factor if beta is None else beta - mean * factor
