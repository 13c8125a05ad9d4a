"""scatter_reduce(x, i, y, "mean") -> scatter_reduce(x, i, y, "sum") / scatter_reduce(1, i, 1, "sum").

ONNX scatters sums, products and extremes, but no means: torch's exporter writes the last value in
their place. Networks that merge tokens (https://arxiv.org/abs/2210.09461) take means.
"""

from __future__ import annotations

from torch import fx

from qpass.graph.edit import argument, aten, call_like, dtype_of
from qpass.graph.fx_rule import fx_rule
from qpass.graph.rewrite import Decline


@fx_rule(aten.scatter_reduce.two)
def mean_from_sums(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Divides the sum of each place by the number of its terms; a place without any keeps its value."""
    x, dim, index, source = node.args[:4]
    if argument(node, 4, "reduce") != "mean":
        return None
    dtype = dtype_of(x)
    if dtype is None or not dtype.is_floating_point:
        raise Decline("a scattered mean of integers is rounded")

    def total(at: object, of: object) -> fx.Node:
        included = argument(node, 5, "include_self", True)
        return call_like(graph_module, node, aten.scatter_reduce.two, at, dim, index, of, "sum", include_self=included)

    ones = [call_like(graph_module, node, aten.ones_like.default, value) for value in (x, source)]
    return call_like(graph_module, node, aten.div.Tensor, total(x, source), total(*ones))
