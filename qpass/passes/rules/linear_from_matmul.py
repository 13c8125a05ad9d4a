"""matmul(x, W) -> linear(x, Wᵀ), linear(x, W) + b -> linear(x, W, b), addmm(b, x, W) -> linear(x, Wᵀ, b), constants W, b."""

from __future__ import annotations

from torch import fx

from qpass.graph import add_constant, aten, call_like, calls, get_constant, is_call, replace


def linear_from_matmul(graph_module: fx.GraphModule) -> int:
    """Gives every product with a constant matrix the one form that later passes look for."""
    done = 0
    for node in calls(graph_module, aten.matmul.default, aten.mm.default):
        weight = get_constant(graph_module, node.args[1])
        if weight is not None and weight.dim() == 2:
            _replace(graph_module, node, node.args[0], node.args[1], None)
            done += 1
    for node in calls(graph_module, aten.addmm.default):
        weight = get_constant(graph_module, node.args[2])
        if weight is not None and not node.kwargs and get_constant(graph_module, node.args[0]) is not None:
            _replace(graph_module, node, node.args[1], node.args[2], node.args[0])
            done += 1
    for node in calls(graph_module, aten.add.Tensor):
        linear, bias = node.args[:2]
        value = get_constant(graph_module, bias)
        if not is_call(linear, aten.linear.default) or value is None or node.kwargs:
            continue
        weight = get_constant(graph_module, linear.args[1])
        has_bias = len(linear.args) > 2 and linear.args[2] is not None
        if has_bias or len(linear.users) > 1 or weight is None or value.shape != weight.shape[:1]:
            continue
        replace(node, call_like(graph_module, linear, aten.linear.default, linear.args[0], linear.args[1], bias))
        done += 1
    return done


def _replace(graph_module: fx.GraphModule, node: fx.Node, x: fx.Node, weight: fx.Node, bias: fx.Node | None) -> None:
    value = get_constant(graph_module, weight)
    assert value is not None
    transposed = add_constant(graph_module, f"{weight.name}_transposed", value.t(), node)
    replace(node, call_like(graph_module, node, aten.linear.default, x, transposed, bias))
