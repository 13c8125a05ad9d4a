"""f(constants) -> constant: relative position tables, concatenated biases, masks, also those that are filled in place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from qpass.graph import add_constant, fetch, replace

#: Larger results are left to be computed: the file would grow by them.
MAX_ELEMENTS = 2**24
_RANDOM = ("rand", "normal", "bernoulli", "dropout", "multinomial")


def fold_constants(graph_module: fx.GraphModule) -> int:
    """Evaluates every call that depends on constants alone."""
    part = _ConstantPart(graph_module)
    folded = 0
    for node, value in list(part.values.items()):
        # Only where a constant leaves the constant part.
        if node.op == "call_function" and isinstance(value, Tensor) and part.readers_outside(node) and part.keep(node, value):
            replace(node, add_constant(graph_module, f"{node.name}_folded", value, node))
            del part.values[node]
            folded += 1
    part.drop_changes()
    return folded


class _ConstantPart:
    """Runs what depends on constants alone, in order, since views may see what is changed in place.

    Args:
        graph_module: The graph.

    Attributes:
        values: What each node of the constant part gives.
    """

    def __init__(self, graph_module: fx.GraphModule) -> None:
        nodes = list(graph_module.graph.nodes)
        self._order = {node: position for position, node in enumerate(nodes)}
        self.values: dict[fx.Node, Any] = {}
        self._changes: dict[fx.Node, int] = {}
        #: Storages that something outside writes to, or that are the model's own: what they hold is no constant.
        self._unsettled: set[int] = set()
        own = set()
        for node in nodes:
            if node.op == "get_attr":
                self.values[node] = fetch(graph_module, str(node.target))
                own.add(_storage(self.values[node]))
            elif node.op == "call_function":
                changed = _storage(self.values.get(node.args[0])) if _is_mutable(node) and node.args else 0  # type: ignore[arg-type]
                if changed and (changed in own or not self._is_constant(node)):
                    self._unsettled.add(changed)
                elif self._is_constant(node) and (changed or not _is_mutable(node)):
                    self.values[node] = self._evaluate(node)
                    if changed:
                        self._changes[node] = changed

    def _is_constant(self, node: fx.Node) -> bool:
        if any(word in str(node.target) for word in _RANDOM) or getattr(node.target, "_schema", None) is None:
            return str(node.target) == "<built-in function getitem>" and node.args[0] in self.values
        return all(source in self.values for source in node.all_input_nodes)

    def _evaluate(self, node: fx.Node) -> Any:
        args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), lambda source: self.values[source])
        with torch.no_grad():
            return node.target(*args, **kwargs)  # type: ignore[operator]

    def readers_outside(self, node: fx.Node) -> list[fx.Node]:
        """Returns the readers of a node that are no part of it."""
        return [user for user in node.users if user not in self.values]

    def keep(self, node: fx.Node, value: Tensor) -> bool:
        """Tells whether a value may become a constant: no reader sees it before its last change, and it is not too large.

        What may not is computed by the graph, changes and all.
        """
        storage = _storage(value)
        last = max((self._order[change] for change, changed in self._changes.items() if changed == storage), default=-1)
        early = any(self._order.get(user, last + 1) < last for user in self.readers_outside(node))
        if early or value.numel() > MAX_ELEMENTS:
            self._unsettled.add(storage)
        return storage not in self._unsettled

    def drop_changes(self) -> None:
        """Removes changes in place that only constants saw: nothing else removes a call that has an effect."""
        for node in reversed(self.values):
            settled = self._changes.get(node, 0) not in self._unsettled
            if node.op == "call_function" and not node.users and settled:
                node.graph.erase_node(node)


def _is_mutable(node: fx.Node) -> bool:
    return bool(getattr(getattr(node.target, "_schema", None), "is_mutable", False))


def _storage(value: Any) -> int:
    """Returns what tensors that share memory have in common; 0 for anything else."""
    return value.untyped_storage().data_ptr() if isinstance(value, Tensor) else 0
