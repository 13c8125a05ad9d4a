"""batch_norm(linear(x, W, b)) -> linear(x, W', b'), the same for conv2d, also through a flatten of the tokens."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from qpass.graph import add_constant, aten, calls, get_constant, is_call, replace, shape_of

_LAYERS = (aten.linear.default, aten.conv2d.default)
_RESHAPES = (aten.flatten.using_ints, aten.reshape.default, aten.view.default)


def fold_batch_norm(graph_module: fx.GraphModule) -> int:
    """Folds every BatchNorm that alone reads a Linear or convolution with constant weights."""
    done = 0
    for node in calls(graph_module, aten.batch_norm.default):
        statistics = [get_constant(graph_module, argument) for argument in node.args[3:5]]
        layer = _layer_below(node)
        if node.args[5] or layer is None or None in statistics:
            continue
        weight = get_constant(graph_module, layer.args[1])
        if weight is None:
            continue
        _fold(graph_module, node, layer, weight)
        done += 1
    return done


def _layer_below(node: fx.Node) -> fx.Node | None:
    below = node.args[0]
    shape = shape_of(node)
    while is_call(below, *_RESHAPES) and len(below.users) == 1:
        # Tokens merged into the batch: (B, N, C) -> (B N, C) keeps the channel dim of a Linear's output last.
        source = shape_of(below.args[0])
        if shape is None or source is None or len(shape) != 2 or source[-1] != shape[-1]:
            return None
        below = below.args[0]
    if not is_call(below, *_LAYERS) or len(below.users) != 1:
        return None
    if is_call(below, aten.linear.default) and (shape is None or len(shape) != 2):
        return None  # BatchNorm's channels are dim 1, the Linear's the last
    return below


def _fold(graph_module: fx.GraphModule, node: fx.Node, layer: fx.Node, weight: Tensor) -> None:
    def constant(argument: fx.Node | None, default: Tensor) -> Tensor:
        value = get_constant(graph_module, argument)
        return default if value is None else value

    zeros, ones = weight.new_zeros(len(weight)), weight.new_ones(len(weight))
    gamma, beta = constant(node.args[1], ones).double(), constant(node.args[2], zeros).double()
    mean, variance = constant(node.args[3], zeros).double(), constant(node.args[4], ones).double()
    bias = constant(layer.args[2] if len(layer.args) > 2 else None, zeros).double()
    factor = gamma / torch.sqrt(variance + node.args[7])
    new_weight = (weight.double() * factor.view(-1, *[1] * (weight.dim() - 1))).to(weight.dtype)
    new_bias = ((bias - mean) * factor + beta).to(weight.dtype)
    path = str(layer.args[1].target)
    constants = [
        add_constant(graph_module, f"{path}_with_batch_norm", new_weight, layer),
        add_constant(graph_module, f"{path}_bias_with_batch_norm", new_bias, layer),
    ]
    layer.args = (layer.args[0], *constants, *layer.args[3:])
    replace(node, node.args[0])
