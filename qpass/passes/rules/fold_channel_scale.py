"""linear(x, W, b) * γ -> linear(x, γ W, γ b), γ a per-channel constant (LayerScale)."""

from __future__ import annotations

from torch import fx

from qpass.graph.edit import aten, calls, dtype_of, get_constant, is_call, replace, shape_of
from qpass.passes.analysis.layer_weights import LayerWeights


def fold_channel_scale(graph_module: fx.GraphModule) -> int:
    """Folds every per-channel factor that is the only reader of a Linear with constant weights."""
    return sum(
        any(_fold(graph_module, node, *order) for order in (node.args, node.args[::-1]))  # type: ignore[arg-type]
        for node in calls(graph_module, aten.mul.Tensor)
    )


def _fold(graph_module: fx.GraphModule, node: fx.Node, linear: fx.Node, factor: fx.Node) -> bool:
    scale, weights = get_constant(graph_module, factor), LayerWeights(graph_module)
    if scale is None or not is_call(linear, aten.linear.default) or len(linear.users) != 1 or not weights.read(linear):
        return False
    if shape_of(node) != shape_of(linear) or dtype_of(node) != dtype_of(linear):
        return False
    weight, bias = weights[linear]
    # A scalar counts as per-channel only if there is a single channel.
    if scale.numel() != len(bias) or (scale.dim() and scale.shape[-1] != len(bias)):
        return False
    scale = scale.flatten().double()
    weight *= scale[:, None]
    bias *= scale
    weights.write("scaled")
    replace(node, linear)
    return True
