"""exp(x - max(x)) / sum(exp(x - max(x))) -> softmax(x), exp(log_softmax(x)) -> softmax(x).

These are softmaxes in other words; later passes match only one form.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import fx

from qpass.graph.edit import argument, aten, call_like, dtype_of, input_node, is_call, shape_of
from qpass.graph.fx_rule import fx_rule
from qpass.graph.rewrite import Decline


@fx_rule(aten.special_softmax.default)
def softmax_from_special(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node:
    """Gives torch.special.softmax its usual name."""
    node.target = aten.softmax.int
    return node


@fx_rule(aten.exp.default)
def softmax_from_logarithm(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Rewrites exp(log_softmax(x))."""
    logarithm = input_node(node, 0)
    if not is_call(logarithm, aten.log_softmax.int):
        return None
    if dtype_of(node) != dtype_of(logarithm):
        raise Decline("the exponential of its log_softmax has another dtype")
    return call_like(graph_module, node, aten.softmax.int, *logarithm.args)


@fx_rule(aten.div.Tensor)
def softmax_from_quotient(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Rewrites exp(x) / sum(exp(x))."""
    exponential, total = node.args[:2]
    if node.kwargs or not is_call(exponential, aten.exp.default) or not is_call(total, aten.sum.dim_IntList):
        return None
    dim = _normalized_dim(exponential, total)
    return call_like(graph_module, node, aten.softmax.int, _without_maximum(exponential.args[0], dim), dim)


def _normalized_dim(exponential: fx.Node, total: fx.Node) -> int:
    """Returns the dim over which a sum normalizes the exponential."""
    dims = argument(total, 1, "dim")
    if total.args[0] is not exponential or dtype_of(total) != dtype_of(exponential):
        raise Decline("an exponential is divided by the sum of other values: write softmax")
    if not argument(total, 2, "keepdim", False):
        raise Decline("the sum of its exponentials drops the dim: write softmax")
    if not isinstance(dims, (list, tuple)) or len(dims) != 1:
        raise Decline("its exponentials are summed over several dims: flatten them and write softmax")
    return int(dims[0])


def _without_maximum(logits: Any, dim: int) -> Any:
    """Returns x of x - max(x), since softmax subtracts the maximum itself."""
    if not is_call(logits, aten.sub.Tensor) or logits.kwargs:
        return logits
    x, greatest = logits.args
    if is_call(greatest, operator.getitem) and greatest.args[1] == 0:
        greatest = greatest.args[0]
    if not is_call(greatest, aten.amax.default, aten.max.dim) or greatest.args[0] is not x or shape_of(x) is None:
        return logits
    over, rank = argument(greatest, 1, "dim"), len(shape_of(x) or ())
    over = over if isinstance(over, (list, tuple)) else [over]
    keeps = argument(greatest, 2, "keepdim", False)
    return x if keeps and [d % rank for d in over] == [dim % rank] else logits
