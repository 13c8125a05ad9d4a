"""unbind(permute(reshape(x, (B, N, 3, H, d)))) -> permute(reshape(part, (B, N, H, d))) thrice.

q, k and v are split before they are moved. Each gets its own quantizer there, and later movements
move bytes.
"""

from __future__ import annotations

import math
import operator

from torch import fx

from qpass.graph.edit import argument, aten, call_like, calls, input_list, is_call, replace, shape_of

_RESHAPES = (aten.reshape.default, aten.view.default)


def split_fused_qkv(graph_module: fx.GraphModule) -> int:
    """Splits fused projections (q, k, v or k, v) before their heads are moved."""
    return sum(_split(graph_module, node) for node in calls(graph_module, aten.unbind.int))


def _split(graph_module: fx.GraphModule, unbind: fx.Node) -> bool:
    permute = unbind.args[0]
    if not is_call(permute, aten.permute.default) or len(permute.users) != 1:
        return False
    reshape = permute.args[0]
    if not is_call(reshape, *_RESHAPES) or len(reshape.users) != 1:
        return False
    source, target = shape_of(reshape.args[0]), shape_of(reshape)
    order = input_list(permute, 1)
    parts_dim = order[argument(unbind, 1, "dim", 0)]
    if source is None or target is None or parts_dim != len(source) - 1 or source[:-1] != target[:parts_dim]:
        return False
    if math.prod(target[parts_dim:]) != source[-1] or any(not is_call(user, operator.getitem) for user in unbind.users):
        return False

    parts = call_like(graph_module, unbind, aten.chunk.default, reshape.args[0], target[parts_dim], -1)
    sizes = input_list(reshape, 1)
    new_sizes = sizes[:parts_dim] + sizes[parts_dim + 1 :]
    new_order = [d - (d > parts_dim) for d in order if d != parts_dim]
    for item in list(unbind.users):
        part = call_like(graph_module, unbind, operator.getitem, parts, item.args[1])
        heads = call_like(graph_module, unbind, aten.reshape.default, part, new_sizes)
        replace(item, call_like(graph_module, unbind, aten.permute.default, heads, new_order))
    return True
