"""exp(x - max(x)) / sum(exp(x - max(x))) -> softmax(x), exp(log_softmax(x)) -> softmax(x)."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx

from qpass.graph.edit import argument, aten, call_like, calls, dtype_of, is_call, replace, shape_of


def softmax_from_exp(graph_module: fx.GraphModule) -> int:
    """Rewrites softmaxes spelled out as a formula into the one form that later passes match."""
    done = 0
    for node in calls(graph_module, aten.special_softmax.default):
        node.target = aten.softmax.int
        done += 1
    for node in calls(graph_module, aten.exp.default):
        if is_call(node.args[0], aten.log_softmax.int) and dtype_of(node) == dtype_of(node.args[0]):
            replace(node, call_like(graph_module, node, aten.softmax.int, *node.args[0].args))  # type: ignore[union-attr]
            done += 1
    for node in calls(graph_module, aten.div.Tensor):
        dim = _normalized_dim(node)
        if dim is not None:
            logits = _without_maximum(node.args[0].args[0], dim)  # type: ignore[union-attr]
            replace(node, call_like(graph_module, node, aten.softmax.int, logits, dim))
            done += 1
    return done


def _normalized_dim(node: fx.Node) -> int | None:
    """Returns the dim along which a quotient is exp(x) / sum(exp(x)), or None for other quotients."""
    exponential, total = node.args[:2]
    if node.kwargs or not is_call(exponential, aten.exp.default) or not is_call(total, aten.sum.dim_IntList):
        return None
    dims, keeps = argument(total, 1, "dim"), argument(total, 2, "keepdim", False)  # type: ignore[arg-type]
    own = total.args[0] is exponential and dtype_of(total) == dtype_of(exponential)  # type: ignore[union-attr]
    return dims[0] if own and keeps and isinstance(dims, (list, tuple)) and len(dims) == 1 else None


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
