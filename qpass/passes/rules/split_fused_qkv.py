"""unbind(permute(reshape(x, (B, N, 3, H, d)))) -> permute(reshape(part, (B, N, H, d))) thrice.

q, k and v are split before they are moved. Each gets its own quantizer there, and later movements
move bytes.
"""

from __future__ import annotations

import math
import operator

from torch import fx

from qpass.graph.edit import argument, aten, call_like, input_list, input_node, is_call, replace, shape_of
from qpass.graph.fx_rule import fx_rule
from qpass.graph.rewrite import Decline


@fx_rule(aten.unbind.int)
def split_fused_qkv(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Splits a fused projection (q, k, v or k, v) before its heads are moved."""
    permute = node.args[0]
    if not is_call(permute, aten.permute.default) or not is_call(permute.args[0], aten.reshape.default, aten.view.default):
        return None
    reshape = input_node(permute, 0)
    if len(permute.users) != 1 or len(reshape.users) != 1:
        raise Decline("something else reads the parts before they are split")
    source, target = shape_of(reshape.args[0]), shape_of(reshape)
    order = input_list(permute, 1)
    parts_dim = order[argument(node, 1, "dim", 0)]
    if source is None or target is None or parts_dim != len(source) - 1 or source[:-1] != target[:parts_dim]:
        raise Decline("its parts do not lie one behind the other in the channels")
    if math.prod(target[parts_dim:]) != source[-1] or any(not is_call(user, operator.getitem) for user in node.users):
        raise Decline("its parts mix channels with other dims")

    parts = call_like(graph_module, node, aten.chunk.default, reshape.args[0], target[parts_dim], -1)
    sizes = input_list(reshape, 1)
    new_sizes = sizes[:parts_dim] + sizes[parts_dim + 1 :]
    new_order = [d - (d > parts_dim) for d in order if d != parts_dim]
    for item in list(node.users):
        part = call_like(graph_module, node, operator.getitem, parts, item.args[1])
        heads = call_like(graph_module, node, aten.reshape.default, part, new_sizes)
        replace(item, call_like(graph_module, node, aten.permute.default, heads, new_order))
    return node
