"""dropout(x), detach(x), alias(x), x[:], pad(x, 0), x.to(x.dtype) -> x."""

from __future__ import annotations

from torch import fx

from qpass.graph.edit import END_OF_DIM, argument, aten, calls, dtype_of, input_node, is_call, replace

_ALWAYS = (
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.detach.default,
    aten.alias.default,
    aten.lift_fresh_copy.default,
)
_CASTS = (aten.to.dtype, aten.to.dtype_layout, aten.to.device, aten.to.other, aten._to_copy.default, aten.type_as.default)


def drop_no_ops(graph_module: fx.GraphModule) -> int:
    """Removes calls that return their input unchanged in eval mode."""
    dropped = 0
    for node in calls(graph_module, *_ALWAYS, *_CASTS, aten.slice.Tensor, aten.pad.default):
        if is_call(node, *_CASTS) and not _keeps_dtype(node):
            continue
        if is_call(node, aten.dropout.default, aten.feature_dropout.default) and argument(node, 2, "train"):
            continue
        if is_call(node, aten.slice.Tensor) and not _is_whole(node):
            continue
        if is_call(node, aten.pad.default) and any(argument(node, 1, "pad")):
            continue
        replace(node, input_node(node, 0))
        dropped += 1
    return dropped


def _keeps_dtype(node: fx.Node) -> bool:
    """Returns whether a cast does nothing: the dtype is the same, and a graph is on a single device."""
    return dtype_of(node) is not None and dtype_of(node) == dtype_of(node.args[0])


def _is_whole(node: fx.Node) -> bool:
    start, end, step = (argument(node, i, name) for i, name in ((2, "start"), (3, "end"), (4, "step")))
    return start in (0, None) and end in (END_OF_DIM, None) and step in (1, None)
