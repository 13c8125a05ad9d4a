"""The current value of each tensor at each point of a graph, as nodes whose values never change."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx

from qpass.errors import TraceError
from qpass.graph.capture.functionalize.mutation import changes_shape, is_mutable, written_arguments
from qpass.graph.capture.functionalize.parts import Parts
from qpass.graph.capture.functionalize.put_back import PutBack
from qpass.graph.capture.functionalize.record import Recorder, Seen
from qpass.graph.capture.functionalize.sizes import same_sizes
from qpass.graph.capture.functionalize.written_values import WrittenValues
from qpass.graph.edit import aten, describe, is_call


class PresentValues:
    """Walks a graph in order and replaces every node's arguments with their current values.

    A tensor is a base, or a view with a parent. A write gives the tensor a new value, which is put into
    its parent, and so on up to the base. Other views of that base are recomputed from their parents
    when they are next read.

    Args:
        graph_module: The graph, with example inputs.
    """

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self._graph_module = graph_module
        recorder = Recorder(graph_module).record()
        self._seen = recorder.seen
        self._parts = Parts(graph_module)
        self._put_back = PutBack(graph_module, self._parts, self._seen)
        self._written_values = WrittenValues(graph_module, recorder, self._read)
        self._base: dict[fx.Node, fx.Node] = {}
        self._base_of: dict[Any, fx.Node] = {}
        self._parent: dict[fx.Node, fx.Node] = {}
        #: The argument to replace when a view is recomputed.
        self._source: dict[fx.Node, fx.Node] = {}
        self._version: dict[fx.Node, int] = {}
        self._value: dict[fx.Node, tuple[int, fx.Node]] = {}
        #: From the result of a write to the tensor that was written.
        self._same: dict[fx.Node, fx.Node] = {}
        self._targets: dict[fx.Node, list[fx.Node]] = {}

    def rewrite(self) -> dict[fx.Node, fx.Node]:
        """Rewrites the graph.

        Returns:
            For each base that was written into, the node of its final value.
        """
        gone = []
        for node in list(self._graph_module.graph.nodes):
            if is_mutable(node):
                self._replace_write(node)
            elif is_call(node, operator.getitem) and node.args[0] in self._targets:
                self._same[node] = self._targets[node.args[0]][node.args[1]]  # type: ignore[index]
            else:
                self._read_arguments(node)
                continue
            gone.append(node)
        for node in reversed(gone):
            self._graph_module.graph.erase_node(node)
        return {base: self._value[base][1] for base, version in self._version.items() if version}

    def _read_arguments(self, node: fx.Node) -> None:
        """Makes a node that writes nothing read current values, and records what it is a view of."""
        parent = self._find_parent(node)
        node.args, node.kwargs = self._read((node.args, dict(node.kwargs)), node)
        if parent is not None:
            self._register_view(node, node, parent)
        elif isinstance(self._seen.get(node), Seen):
            self._base[node] = self._base_of[self._seen[node].storage] = node
            self._version[node], self._value[node] = 0, (0, node)

    def _register_view(self, view: fx.Node, node: fx.Node, parent: fx.Node) -> None:
        base = self._base[parent]
        self._base[view], self._parent[view], self._source[view] = base, parent, self._value_of(parent, node)
        self._value[view] = self._version[base], self._view(view, self._source[view], node, made=True)

    def _find_parent(self, node: fx.Node) -> fx.Node | None:
        """Returns the tensor whose memory a node's result shares, or None if it has its own memory."""
        seen = self._seen.get(node)
        seen = seen[0] if isinstance(seen, (tuple, list)) and seen else seen
        base = self._base_of.get(seen.storage) if isinstance(seen, Seen) else None
        sources = (self._resolve(source) for source in node.all_input_nodes)
        return base and next((source for source in sources if self._base.get(source) is base), base)

    def _resolve(self, node: fx.Node) -> fx.Node:
        while node in self._same:
            node = self._same[node]
        return node

    def _read(self, arguments: Any, before: fx.Node) -> Any:
        """Returns arguments with each node replaced by its value before ``before`` runs."""
        return fx.node.map_arg(arguments, lambda node: self._value_of(self._resolve(node), before))

    def _value_of(self, node: fx.Node, before: fx.Node) -> fx.Node:
        if node not in self._base:
            return node
        version, value = self._value[node]
        if version != self._version[self._base[node]]:
            value = self._view(node, self._value_of(self._parent[node], before), before, made=False)
            self._value[node] = self._version[self._base[node]], value
        return value

    def _view(self, view: fx.Node, source: fx.Node, before: fx.Node, *, made: bool) -> fx.Node:
        """Returns a view recomputed from another value, or the view itself if it was just made from it."""
        parent = self._parent[view]
        if self._is_whole(view, parent):
            return source
        seen = self._seen[parent]
        found = self._parts.find(view, source, len(seen.shape), before) if isinstance(seen, Seen) else None
        if found is not None or made:
            return found or view
        if self._source[view] not in view.all_input_nodes:
            raise TraceError("its tensor shares memory with another tensor that is written to", where=describe(view))
        with self._graph_module.graph.inserting_before(before):
            again = self._graph_module.graph.node_copy(view, lambda n: source if n is self._source[view] else n)
        if is_call(again, aten.view.default):
            again.target = aten.reshape.default  # the new source may have other strides
        return again

    def _is_whole(self, view: fx.Node, parent: fx.Node) -> bool:
        seen, of = self._seen[view], self._seen[parent]
        if not (isinstance(seen, Seen) and isinstance(of, Seen)):
            return False
        return (seen.layout, seen.dtype) == (of.layout, of.dtype) and (view.op == "get_attr" or same_sizes(view, parent))

    def _replace_write(self, node: fx.Node) -> None:
        targets: list[Any] = [fx.node.map_arg(target, self._resolve) for target in written_arguments(node)]
        if any(target not in self._base for target in targets if isinstance(target, fx.Node)) or not all(
            isinstance(target, fx.Node) for target in targets
        ):
            raise TraceError(
                f"{node.target} writes into a list of tensors",
                where=describe(node),
                hint="write into one after the other",
            )
        self._targets[node] = targets
        if is_call(node, aten.detach_.default):
            self._same[node] = targets[0]
        elif changes_shape(node):
            self._change_shape(node, targets[0])
        else:
            for target, value in zip(targets, self._written_values(node, targets), strict=True):
                self._write(target, value, node)
            self._same[node] = targets[0]

    def _change_shape(self, node: fx.Node, target: fx.Node) -> None:
        view = self._written_values.view(node)
        self._seen[view] = self._seen[node]
        self._register_view(view, node, target)
        self._same[node] = self._same[target] = view

    def _write(self, target: fx.Node, value: fx.Node, before: fx.Node) -> None:
        base = self._base[target]
        written = [(target, value)]
        while target is not base:
            parent = self._parent[target]
            if not isinstance(self._seen[parent], Seen):  # one of several views
                parent = self._parent[parent]
            if not self._is_whole(target, parent):
                value = self._put_back(target, value, self._value_of(parent, before), parent, before=before)
            target = parent
            written.append((target, value))
        self._version[base] += 1
        self._value.update({tensor: (self._version[base], value) for tensor, value in written})
