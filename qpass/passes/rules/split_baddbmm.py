"""baddbmm(c, a, b) -> c + bmm(a, b): attention with a mask, as nn.MultiheadAttention spells it."""

from __future__ import annotations

from torch import fx

from qpass.graph.edit import aten, call_like, calls, replace


def split_baddbmm(graph_module: fx.GraphModule) -> int:
    """Splits off the product, which can be quantized. Calls with alpha or beta other than 1 stay."""
    done = 0
    for node in calls(graph_module, aten.baddbmm.default):
        added, a, b = node.args
        if any(node.kwargs.get(factor, 1) != 1 for factor in ("alpha", "beta")):
            continue
        product = call_like(graph_module, node, aten.bmm.default, a, b)
        replace(node, call_like(graph_module, node, aten.add.Tensor, product, added))
        done += 1
    return done
