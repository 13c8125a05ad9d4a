"""linear(x, W, b) * γ -> linear(x, γ W, γ b), γ a constant for each channel (LayerScale)."""

from __future__ import annotations

from torch import fx

from qpass.graph import aten, calls, get_constant, replace, shape_of
from qpass.passes.layer_weights import LayerWeights


def fold_channel_scale(graph_module: fx.GraphModule) -> int:
    """Folds every factor for each channel that alone reads a Linear with constant weights."""
    done = 0
    for node in calls(graph_module, aten.mul.Tensor):
        for linear, factor in (node.args, node.args[::-1]):
            scale = get_constant(graph_module, factor)
            weights = LayerWeights(graph_module)
            if scale is None or not isinstance(linear, fx.Node) or len(linear.users) != 1 or not weights.read(linear):
                continue
            weight, bias = weights[linear]
            if linear.target is not aten.linear.default or shape_of(node) != shape_of(linear):
                continue
            if scale.numel() != len(bias) or scale.shape[-1] != len(bias):
                continue
            scale = scale.flatten().double()
            weight *= scale[:, None]
            bias *= scale
            weights.write("scaled")
            replace(node, linear)
            done += 1
            break
    return done
