"""scaled_dot_product_attention(q, k, v, mask) -> matmul(softmax(matmul(q, kᵀ) * scale + mask), v).

If several heads of q share one of k and v (grouped-query attention), k and v are repeated.
"""

from __future__ import annotations

import math

from torch import fx

from qpass.graph.edit import argument, aten, call_like, dtype_of, input_node, shape_of
from qpass.graph.fx_rule import fx_rule
from qpass.graph.rewrite import Decline
from qpass.passes.rules.attention_masks import apply_causal_mask, apply_mask


@fx_rule(aten.scaled_dot_product_attention.default)
def decompose_attention(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node:
    """Decomposes attention. A declined node stays whole, and ``annotate`` lists it with the reason."""
    query, key, value = (input_node(node, index) for index in range(3))
    mask, causal = argument(node, 3, "attn_mask"), argument(node, 5, "is_causal", False)
    query_shape = shape_of(query)
    if query_shape is None or shape_of(key) is None or shape_of(value) is None:
        raise Decline("the shapes of its inputs are unknown")
    if mask is not None and dtype_of(mask) is None:
        raise Decline("the dtype of its mask is unknown")
    if argument(node, 4, "dropout_p", 0.0):
        raise Decline("it drops out weights at random: pass dropout_p=0.0 in eval mode")
    scale = node.kwargs.get("scale")
    scale = 1 / math.sqrt(query_shape[-1]) if scale is None else scale

    if node.kwargs.get("enable_gqa", False):
        key, value = (_repeat_heads(graph_module, node, tensor, query_shape[-3]) for tensor in (key, value))
    key_t = call_like(graph_module, node, aten.transpose.int, key, -2, -1)
    logits = call_like(graph_module, node, aten.matmul.default, query, key_t)  # (B, H, N, d) x (B, H, d, M) -> (B, H, N, M)
    logits = call_like(graph_module, node, aten.mul.Tensor, logits, scale)
    hidden_rows = None
    if causal:
        logits = apply_causal_mask(graph_module, node, logits)
    if mask is not None:
        logits, hidden_rows = apply_mask(graph_module, node, logits, mask)
    weights = call_like(graph_module, node, aten.softmax.int, logits, -1)
    output = call_like(graph_module, node, aten.matmul.default, weights, value)
    if hidden_rows is not None:
        output = call_like(graph_module, node, aten.masked_fill.Scalar, output, hidden_rows, 0.0)
    return output


def _repeat_heads(graph_module: fx.GraphModule, node: fx.Node, tensor: fx.Node, heads: int) -> fx.Node:
    shape = shape_of(tensor)
    assert shape is not None
    groups = heads // shape[-3]
    return tensor if groups == 1 else call_like(graph_module, node, aten.repeat_interleave.self_int, tensor, groups, -3)
