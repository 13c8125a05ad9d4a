"""linear(x, W, b) * γ -> linear(x, γ W, γ b), γ a per-channel constant (LayerScale)."""

from __future__ import annotations

from torch import fx

from qpass.graph.edit import aten, dtype_of, get_constant, is_call, shape_of
from qpass.graph.fx_rule import fx_rule
from qpass.graph.rewrite import Decline
from qpass.passes.analysis.layer_weights import LayerWeights


@fx_rule(aten.mul.Tensor)
def fold_channel_scale(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Folds a per-channel factor that is the only reader of a Linear with constant weights."""
    linear, factor = node.args if is_call(node.args[0], aten.linear.default) else node.args[::-1]
    scale, weights = get_constant(graph_module, factor), LayerWeights(graph_module)
    if scale is None or not is_call(linear, aten.linear.default):
        return None
    if len(linear.users) != 1:
        raise Decline("the Linear that it scales has another reader")
    if not weights.read(linear):
        raise Decline("the Linear that it scales has a computed weight or bias, or a bias that broadcasts")
    if shape_of(node) != shape_of(linear) or dtype_of(node) != dtype_of(linear):
        raise Decline("it changes the shape or dtype of the Linear's output")
    weight, bias = weights[linear]
    # A scalar counts as per-channel only if there is a single channel.
    if scale.numel() != len(bias) or (scale.dim() and scale.shape[-1] != len(bias)):
        raise Decline(f"its factor has shape {tuple(scale.shape)}, not one number for each of {len(bias)} channels")
    scale = scale.flatten().double()
    weight *= scale[:, None]
    bias *= scale
    weights.write("scaled")
    return linear
