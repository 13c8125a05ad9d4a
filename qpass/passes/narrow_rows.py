"""fitted -> fitted: computes only the rows that the output reads.

A classifier reads the class token alone, so its last block needs no other row of its projection and
MLP, and only one query. Earlier passes see all rows: they fit to them, and learn from them.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, fx

from qpass.graph.edit import (
    KEPT_ROWS,
    argument,
    aten,
    called_module,
    copy_origin,
    copy_result,
    finish,
    input_list,
    input_node,
    is_call,
    is_open,
    shape_of,
)
from qpass.passes.analysis.reference import Reference
from qpass.passes.analysis.rows import SIZED, Rows, is_product, rows_of_operands, selected_rows
from qpass.passes.annotate import source_of
from qpass.passes.base import Pass
from qpass.quantizers import Quantizer

#: Nodes that compute few rows: these rows, and those of operands by index.
_NarrowNodes = Mapping[fx.Node, tuple[Rows, Mapping[int, Rows]]]


class NarrowRows(Pass):
    """Moves selections of rows, such as ``x[:, 0]``, towards the inputs as far as rows are independent.

    Linears, LayerNorms, quantizers, elementwise functions, residual sums, Softmaxes and products
    compute each row by itself; reshapes and transposes move rows. A node whose readers all need the
    same few rows computes only these. Queries are rows too; keys and values are needed whole. The
    function is unchanged. Dims that vary with the input stay whole.

    Args:
        reference: The float network beside the graph, if any; it is narrowed too.
    """

    takes, gives = "fitted", "fitted"
    keeps_function = True

    def __init__(self, reference: Reference | None = None) -> None:
        self.reference = Reference() if reference is None else reference

    def run(self, graph_module: fx.GraphModule) -> bool:
        """See ``Pass.run``."""
        narrow = _narrow_nodes(graph_module)
        if not any(is_product(graph_module, node) for node in narrow):
            return False  # nothing that takes time
        selections = {node: rows for node in graph_module.graph.nodes if (rows := selected_rows(node)) is not None}
        slices = _Slices(graph_module, {node: rows for node, (rows, _) in narrow.items()})
        for node in list(graph_module.graph.nodes):
            if node in narrow:
                _narrow(node, *narrow[node], slices)
            elif node in selections and node.args[0] in narrow:
                _select_within(node, selections[node], narrow[node.args[0]][0])
        finish(graph_module)
        if (floats := self.reference.graph) is not None and floats is not graph_module:
            self(floats)
        return True


def _narrow_nodes(graph_module: fx.GraphModule) -> _NarrowNodes:
    """Returns the nodes of which few rows are needed: these rows, and those of each operand."""
    whole = set[fx.Node]()
    while True:
        found = _without(whole, graph_module)
        parted = {node for node in found if _is_parted(graph_module, node, found)}
        if not parted:
            return found
        whole |= parted


def _without(whole: set[fx.Node], graph_module: fx.GraphModule) -> _NarrowNodes:
    """Returns the nodes of which few rows are needed if some nodes compute all of theirs."""
    found: dict[fx.Node, tuple[Rows, Mapping[int, Rows]]] = {}
    for node in reversed(graph_module.graph.nodes):
        rows, shape = Rows.union([_asked(user, node, found) for user in node.users]), shape_of(node)
        if node in whole or rows is None or shape is None or 2 * rows.count > shape[rows.dim]:
            continue
        operands = rows_of_operands(graph_module, node, rows)
        if operands is not None and _is_fixed(graph_module, node, rows):
            found[node] = rows, operands
    return found


def _is_parted(graph_module: fx.GraphModule, node: fx.Node, found: _NarrowNodes) -> bool:
    """Returns whether a slice would come between a node and the quantizer of its operand."""
    needed = [(input_node(node, index), wanted) for index, wanted in found[node][1].items()]
    sliced = (operand for operand, wanted in needed if operand not in found or found[operand][0] != wanted)
    return any(isinstance(called_module(graph_module, source_of(operand)), Quantizer) for operand in sliced)


def _is_fixed(graph_module: fx.GraphModule, node: fx.Node, rows: Rows) -> bool:
    """Returns whether the number of a node's rows is the same for all inputs."""
    if "val" in node.meta:
        return not is_open(node, rows.dim)
    if is_call(node, operator.getitem) and is_call(chunks := input_node(node, 0), aten.chunk.default):
        dim = argument(chunks, 2, "dim", 0) % len(shape_of(node) or ())
        return dim != rows.dim and _is_fixed(graph_module, input_node(chunks, 0), rows)
    operands = rows_of_operands(graph_module, node, rows) or {}  # of a node that a pass made
    return bool(operands) and all(_is_fixed(graph_module, input_node(node, index), own) for index, own in operands.items())


def _asked(user: fx.Node, node: fx.Node, narrow: _NarrowNodes) -> Rows | None:
    """Returns the rows of a node that one of its readers needs, or None for all."""
    if (selected := selected_rows(user)) is not None:
        return selected
    if user not in narrow:
        return None
    operands = narrow[user][1]
    return Rows.union([operands.get(index) for index, operand in enumerate(user.args) if operand is node])


@dataclass
class _Slices:
    """Slices of nodes, one for all readers of the same rows.

    Attributes:
        graph_module: The graph.
        held: Rows that narrowed nodes compute.
    """

    graph_module: fx.GraphModule
    held: Mapping[fx.Node, Rows]
    _made: dict[tuple[fx.Node, Rows], fx.Node] = field(default_factory=dict, init=False)

    def get(self, source: fx.Node, wanted: Rows, before: fx.Node) -> fx.Node:
        """Returns a node with these rows of ``source``: itself, or a slice of it."""
        held = self.held.get(source)
        if held == wanted:
            return source
        if (source, wanted) not in self._made:
            start = wanted.start - (held.start if held is not None else 0)
            with self.graph_module.graph.inserting_before(before):
                args = (source, wanted.dim, start, start + wanted.count)
                made = self.graph_module.graph.call_function(aten.slice.Tensor, args)
            copy_origin(before, made)
            copy_result(source, made)
            made.meta.pop(KEPT_ROWS, None)  # those of the source
            _record(made, Rows(wanted.dim, start, start + wanted.count))
            self._made[source, wanted] = made
        return self._made[source, wanted]


def _narrow(node: fx.Node, rows: Rows, operands: Mapping[int, Rows], slices: _Slices) -> None:
    """Makes a node compute these rows, from these rows of its operands."""
    args = list(node.args)
    for index, wanted in operands.items():
        operand = args[index]
        assert isinstance(operand, fx.Node), "rows_of_operands lists nodes"
        args[index] = slices.get(operand, wanted, node)
    if is_call(node, *SIZED):
        sizes = list(input_list(node, 1))
        sizes[rows.dim] = rows.count
        args[1] = sizes
    node.args = tuple(args)
    node.meta[KEPT_ROWS] = rows.dim, rows.start, rows.count, (shape_of(node) or ())[rows.dim]
    _record(node, rows)


def _record(node: fx.Node, rows: Rows) -> None:
    """Changes what is recorded of a node's output to these rows of it."""
    for key in ("val", "result"):
        if isinstance(value := node.meta.get(key), Tensor):
            node.meta[key] = value.narrow(rows.dim, rows.start, rows.count)
    shape = list(shape_of(node) or ())
    shape[rows.dim] = rows.count
    node.meta["shape"] = tuple(shape)


def _select_within(node: fx.Node, selected: Rows, held: Rows) -> None:
    """Makes a selection take the same rows from an operand that holds only some."""
    start = selected.start - held.start
    bounds = (start,) if is_call(node, aten.select.int) else (start, start + selected.count)
    node.args, node.kwargs = (node.args[0], selected.dim, *bounds), {}
