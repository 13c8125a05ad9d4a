"""matmul(x, W) -> linear(x, Wᵀ), linear(x, W) + b -> linear(x, W, b), addmm(b, x, W) -> the same.

W and b are constants.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from qpass.graph.edit import add_constant, argument, aten, call_like, calls, dtype_of, get_constant, is_call, replace


def linear_from_matmul(graph_module: fx.GraphModule) -> int:
    """Rewrites every product with a constant matrix as a Linear, the form that later passes match."""
    done = 0
    for node in calls(graph_module, aten.matmul.default, aten.mm.default):
        done += _replace(graph_module, node, node.args[0], node.args[1], None)
    for node in calls(graph_module, aten.addmm.default):
        if not node.kwargs:
            done += _replace(graph_module, node, node.args[1], node.args[2], node.args[0])
    for node in calls(graph_module, aten.add.Tensor):
        done += any(_add_bias(graph_module, node, *order) for order in (node.args, node.args[::-1]))  # type: ignore[arg-type]
    return done


def _replace(graph_module: fx.GraphModule, node: fx.Node, x: Any, weight: Any, bias: Any) -> bool:
    value = _matrix(graph_module, weight, node)
    if value is None or (bias is not None and not _is_bias(graph_module, bias, value.t())):
        return False
    transposed = add_constant(graph_module, f"{weight.name}_transposed", value.t(), node)
    replace(node, call_like(graph_module, node, aten.linear.default, x, transposed, bias))
    return True


def _add_bias(graph_module: fx.GraphModule, node: fx.Node, linear: Any, bias: Any) -> bool:
    if not is_call(linear, aten.linear.default) or len(linear.users) != 1 or node.kwargs:
        return False
    value = _matrix(graph_module, argument(linear, 1, "weight"), node)
    has_bias = argument(linear, 2, "bias") is not None
    if has_bias or value is None or not _is_bias(graph_module, bias, value):
        return False
    replace(node, call_like(graph_module, linear, aten.linear.default, linear.args[0], linear.args[1], bias))
    return True


def _matrix(graph_module: fx.GraphModule, weight: Any, node: fx.Node) -> Tensor | None:
    """Returns a constant float matrix with the dtype of a node's output, or None."""
    value = get_constant(graph_module, weight)
    suits = value is not None and value.dim() == 2 and value.is_floating_point() and value.dtype == dtype_of(node)
    return value if suits else None


def _is_bias(graph_module: fx.GraphModule, bias: Any, weight: Tensor) -> bool:
    """Returns whether a node is a constant with one number per row of a weight, not just broadcastable."""
    value = get_constant(graph_module, bias)
    return value is not None and value.shape == weight.shape[:1] and value.dtype == weight.dtype
