"""The masks of scaled_dot_product_attention as operators on its logits.

For a fully masked row (a query that attends to no key), torch returns zeros, while a softmax over
only -inf gives NaN. Such a row is left unmasked here, and its output is set to zero. Only masks
that may mask a full row incur this cost.
"""

from __future__ import annotations

import math

import torch
from torch import fx

from qpass.graph.edit import add_constant, aten, call_like, device_of, dtype_of, get_constant, is_call, is_open, shape_of

#: Operators whose results are finite: no -inf passes through them.
_FINITE = (
    aten.linear.default,
    aten.matmul.default,
    aten.bmm.default,
    aten.conv2d.default,
    aten.softmax.int,
    aten.sigmoid.default,
    aten.tanh.default,
    aten.gelu.default,
    aten.relu.default,
    aten.layer_norm.default,
    aten.sin.default,
    aten.cos.default,
)
#: Operators that can return -inf for a finite argument.
_TO_INFINITY = (aten.log.default, aten.log2.default, aten.log10.default, aten.reciprocal.default)
#: Two such numbers sum to infinity: masks filled with the lowest float are often added together.
_HUGE = 1e38


def apply_mask(
    graph_module: fx.GraphModule, attention: fx.Node, logits: fx.Node, mask: fx.Node
) -> tuple[fx.Node, fx.Node | None]:
    """Returns the masked logits, and which output rows must be zero, or None if no row is fully masked.

    Args:
        graph_module: The graph.
        attention: The node that new calls are inserted before.
        logits: (..., queries, keys).
        mask: Boolean (False hides), or a float that is added; broadcasts to the logits.

    Returns:
        The logits, and a boolean (..., queries, 1) that broadcasts to the output.
    """

    def call(*what: object) -> fx.Node:
        return call_like(graph_module, attention, *what)  # type: ignore[arg-type]

    boolean = dtype_of(mask) == torch.bool
    if not _may_hide_rows(graph_module, mask):
        if not boolean:
            return call(aten.add.Tensor, logits, mask), None
        return call(aten.masked_fill.Scalar, logits, call(aten.logical_not.default, mask), -math.inf), None
    hidden = call(aten.logical_not.default, mask) if boolean else call(aten.eq.Scalar, mask, -math.inf)
    rows = call(aten.all.dim, hidden, -1, True)
    if boolean:
        hidden = call(aten.logical_and.default, hidden, call(aten.logical_not.default, rows))
        return call(aten.masked_fill.Scalar, logits, hidden, -math.inf), rows
    return call(aten.add.Tensor, logits, call(aten.masked_fill.Scalar, mask, rows, 0.0)), rows


def apply_causal_mask(graph_module: fx.GraphModule, attention: fx.Node, logits: fx.Node) -> fx.Node:
    """Masks the keys j > i for query i, as ``is_causal`` does; both count from the first."""
    if not any(is_open(attention.args[which], -2) for which in (0, 1)):  # type: ignore[arg-type]
        shape = shape_of(logits)
        assert shape is not None
        visible = torch.ones(shape[-2:], dtype=torch.bool).tril()
        bias = torch.zeros(shape[-2:], dtype=dtype_of(logits)).masked_fill(~visible, -math.inf)
        constant = add_constant(graph_module, f"{attention.name}_causal_mask", bias, attention)
        return call_like(graph_module, attention, aten.add.Tensor, logits, constant)
    counts = []
    for which in (0, 1):
        size = call_like(graph_module, attention, aten.sym_size.int, attention.args[which], -2)
        counts.append(call_like(graph_module, attention, aten.arange.default, size, device=device_of(graph_module)))
    queries = call_like(graph_module, attention, aten.unsqueeze.default, counts[0], -1)
    hidden = call_like(graph_module, attention, aten.gt.Tensor, counts[1], queries)
    return call_like(graph_module, attention, aten.masked_fill.Scalar, logits, hidden, -math.inf)


def _may_hide_rows(graph_module: fx.GraphModule, mask: fx.Node) -> bool:
    """Returns whether a mask can mask a full row; True if unknown."""
    boolean = dtype_of(mask) == torch.bool
    source = mask
    while is_call(source, aten.expand.default):  # a row that repeats one element is fully masked if the element is
        source = source.args[0]  # type: ignore[assignment]
    value = get_constant(graph_module, source)
    if value is not None:
        hidden = ~value if boolean else value == -math.inf
        return bool(hidden.all(-1).any()) if value.dim() else bool(hidden)
    return boolean or _may_be_infinite(graph_module, mask, set())


def _may_be_infinite(graph_module: fx.GraphModule, node: fx.Node, seen: set[fx.Node]) -> bool:
    """Returns whether a tensor can contain -inf, assuming finite activations."""
    if node in seen or dtype_of(node) is None or not dtype_of(node).is_floating_point:  # type: ignore[union-attr]
        return False
    seen.add(node)
    value = get_constant(graph_module, node)
    if value is not None:
        return bool((value.abs() > _HUGE).any())
    if is_call(node, *_FINITE):
        return False
    if node.op != "call_function" or is_call(node, *_TO_INFINITY) or _divides_by_tensor(node):
        return True
    if any(isinstance(number, float) and abs(number) > _HUGE for number in (*node.args, *node.kwargs.values())):
        return True
    return any(_may_be_infinite(graph_module, source, seen) for source in node.all_input_nodes)


def _divides_by_tensor(node: fx.Node) -> bool:
    return is_call(node, aten.div.Tensor) and isinstance(node.args[1], fx.Node)
