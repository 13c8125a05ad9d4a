"""Turns a traced graph into a functional one, and checks that graphs stay functional.

Later passes move, copy and replace nodes. That is valid only if no node's value changes after the
node has run.
"""

from __future__ import annotations

from torch import fx

from qpass.errors import TraceError
from qpass.graph.capture.functionalize.mutation import is_mutable
from qpass.graph.capture.functionalize.present_values import PresentValues
from qpass.graph.capture.functionalize.regions import inline_regions
from qpass.graph.capture.functionalize.state import refuse_state
from qpass.graph.edit import aten, calls, describe, finish

#: Assertions on data, and on what the trace has fixed. In the source check, the caller's model runs
#: with its own assertions.
_ASSERTIONS = (
    aten._assert_tensor_metadata.default,
    aten._assert_scalar.default,
    aten._assert_async.default,
    aten._assert_async.msg,
    aten._functional_assert_scalar.default,
    aten._functional_assert_async.msg,
    aten.sym_constrain_range.default,
    aten.sym_constrain_range_for_size.default,
)
#: Uninitialized memory becomes zeros: it may hold NaN, and its values depend on what ran before.
_WITHOUT_VALUES = {
    aten.empty.memory_format: aten.zeros.default,
    aten.empty_like.default: aten.zeros_like.default,
    aten.new_empty.default: aten.new_zeros.default,
}
#: Norms that update running statistics although their schemas do not say so, and the argument index
#: of their training flag.
_UPDATES_STATISTICS = {aten.batch_norm.default: 5, aten.instance_norm.default: 5}


def functionalize(graph_module: fx.GraphModule) -> None:
    """Rewrites a traced graph in place.

    Args:
        graph_module: A graph from torch.export, with its own tensors and example inputs, whose values
            stay unchanged.

    Raises:
        TraceError: For an operator without a functional form, a write through a view without an
            inverse, or outputs that depend on how often the model was called. Names the node or the
            buffer.
    """
    inline_regions(graph_module)
    for node in calls(graph_module, *_ASSERTIONS):
        graph_module.graph.erase_node(node)
    for node in calls(graph_module, *_UPDATES_STATISTICS):
        if node.args[_UPDATES_STATISTICS[node.target]]:  # type: ignore[index]
            node.args = (*node.args[:3], None, None, *node.args[5:])
    if any(map(is_mutable, graph_module.graph.nodes)):
        written = PresentValues(graph_module).rewrite()
        refuse_state(graph_module, written)
    for node in calls(graph_module, *_WITHOUT_VALUES):
        node.target = _WITHOUT_VALUES[node.target]  # type: ignore[index]
        node.kwargs = {name: value for name, value in node.kwargs.items() if name != "memory_format"}
    finish(graph_module)
    refuse_writes(graph_module)


def refuse_writes(graph_module: fx.GraphModule) -> None:
    """Checks that no node writes into a tensor, as every pass requires.

    Raises:
        TraceError: If one does. Names the first.
    """
    for node in graph_module.graph.nodes:
        if is_mutable(node):
            raise TraceError(f"{node.target} writes into a tensor", where=describe(node), expected="a functional graph")
