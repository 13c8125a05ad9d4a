"""matmul(x, W) -> linear(x, Wᵀ), linear(x, W) + b -> linear(x, W, b), addmm(b, x, W) -> the same.

W and b are constants. Later passes match only Linears.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from qpass.graph.edit import add_constant, argument, aten, call_like, dtype_of, get_constant, is_call
from qpass.graph.fx_rule import fx_rule
from qpass.graph.rewrite import Decline


@fx_rule(aten.matmul.default, aten.mm.default)
def linear_from_matmul(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Rewrites a product with a constant matrix."""
    x, weight = node.args
    if get_constant(graph_module, weight) is None:
        return None
    return _linear(graph_module, node, x, weight, _matrix(graph_module, weight, node), None)


@fx_rule(aten.addmm.default)
def linear_from_addmm(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node:
    """Rewrites a product with a constant matrix, plus a constant."""
    bias, x, weight = node.args
    if node.kwargs:
        raise Decline("addmm multiplies its product, or what it adds to it, by a factor")
    if get_constant(graph_module, weight) is None:
        raise Decline("a matrix of it is computed, not a constant")
    value = _matrix(graph_module, weight, node)
    _check_bias(graph_module, bias, value.t())
    return _linear(graph_module, node, x, weight, value, bias)


@fx_rule(aten.add.Tensor)
def bias_from_add(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Makes a constant that is added to a Linear without a bias its bias."""
    linear, bias = node.args if is_call(node.args[0], aten.linear.default) else node.args[::-1]
    if not is_call(linear, aten.linear.default) or get_constant(graph_module, bias) is None or node.kwargs:
        return None
    if argument(linear, 2, "bias") is not None:
        return None
    if len(linear.users) != 1:
        raise Decline("the Linear that a constant is added to has another reader")
    weight = argument(linear, 1, "weight")
    if get_constant(graph_module, weight) is None:
        raise Decline("the weight of the Linear that a constant is added to is computed, not a constant")
    _check_bias(graph_module, bias, _matrix(graph_module, weight, node))
    assert isinstance(bias, fx.Node)
    if linear < bias:  # a folded constant may be defined between the Linear and the sum
        linear.prepend(bias)
    return call_like(graph_module, linear, aten.linear.default, linear.args[0], linear.args[1], bias)


def _linear(graph_module: fx.GraphModule, node: fx.Node, x: Any, weight: Any, value: Tensor, bias: Any) -> fx.Node:
    transposed = add_constant(graph_module, f"{weight.name}_transposed", value.t(), node)
    return call_like(graph_module, node, aten.linear.default, x, transposed, bias)


def _matrix(graph_module: fx.GraphModule, weight: Any, node: fx.Node) -> Tensor:
    """Returns a constant, which must be a float matrix with the dtype of a node's output."""
    value = get_constant(graph_module, weight)
    assert value is not None
    if value.dim() != 2:
        raise Decline(f"its constant factor has {value.dim()} dims, and a Linear's weight has 2")
    if not value.is_floating_point() or value.dtype != dtype_of(node):
        raise Decline(f"its constant factor is {value.dtype}, and its output {dtype_of(node)}")
    return value


def _check_bias(graph_module: fx.GraphModule, bias: Any, weight: Tensor) -> None:
    """Declines what is not a constant with one number per row of a weight, even if it broadcasts."""
    value = get_constant(graph_module, bias)
    if value is None:
        raise Decline("what is added to its product is computed, not a constant")
    if value.shape != weight.shape[:1]:
        raise Decline(f"what is added to its product has shape {tuple(value.shape)}, and a bias {tuple(weight.shape[:1])}")
    if value.dtype != weight.dtype:
        raise Decline(f"what is added to its product is {value.dtype}, and its weight {weight.dtype}")
