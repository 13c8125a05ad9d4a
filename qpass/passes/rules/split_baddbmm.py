"""baddbmm(c, a, b) -> c + bmm(a, b): attention with a mask, as nn.MultiheadAttention spells it."""

from __future__ import annotations

from torch import fx

from qpass.graph.edit import aten, call_like
from qpass.graph.fx_rule import fx_rule
from qpass.graph.rewrite import Decline


@fx_rule(aten.baddbmm.default)
def split_baddbmm(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node:
    """Splits off the product, which can be quantized."""
    added, a, b = node.args
    if any(node.kwargs.get(factor, 1) != 1 for factor in ("alpha", "beta")):
        raise Decline("baddbmm multiplies its product, or what it adds to it, by a factor")
    product = call_like(graph_module, node, aten.bmm.default, a, b)
    return call_like(graph_module, node, aten.add.Tensor, product, added)
