"""dropout(x), detach(x), alias(x), x[:], pad(x, 0), x.to(x.dtype) -> x."""

from __future__ import annotations

from torch import fx

from qpass.graph.edit import END_OF_DIM, argument, aten, dtype_of, input_node, is_call
from qpass.graph.fx_rule import fx_rule
from qpass.graph.rewrite import Decline

_DROPOUTS = (aten.dropout.default, aten.feature_dropout.default)
_ALWAYS = (aten.detach.default, aten.alias.default, aten.lift_fresh_copy.default)
_CASTS = (aten.to.dtype, aten.to.dtype_layout, aten.to.device, aten.to.other, aten._to_copy.default, aten.type_as.default)


@fx_rule(*_DROPOUTS, *_ALWAYS, *_CASTS, aten.slice.Tensor, aten.pad.default)
def drop_no_ops(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Removes a call that returns its input unchanged in eval mode."""
    if is_call(node, *_DROPOUTS) and argument(node, 2, "train"):
        raise Decline("it drops out values at random: pass training=self.training")
    if is_call(node, *_CASTS) and not _keeps_dtype(node):
        return None
    if is_call(node, aten.slice.Tensor) and not _is_whole(node):
        return None
    if is_call(node, aten.pad.default) and any(argument(node, 1, "pad")):
        return None
    return input_node(node, 0)


def _keeps_dtype(node: fx.Node) -> bool:
    """Returns whether a cast does nothing: the dtype is the same, and a graph is on a single device."""
    return dtype_of(node) is not None and dtype_of(node) == dtype_of(node.args[0])


def _is_whole(node: fx.Node) -> bool:
    start, end, step = (argument(node, i, name) for i, name in ((2, "start"), (3, "end"), (4, "step")))
    return start in (0, None) and end in (END_OF_DIM, None) and step in (1, None)
