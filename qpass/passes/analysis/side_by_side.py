"""Runs batches through a graph in lockstep, so that a node can be changed before any value reaches it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

import torch.utils._pytree as pytree
from torch import Tensor, fx

from qpass.data import ModelInputs
from qpass.graph.edit import flat_inputs
from qpass.passes.constants import constant_nodes
from qpass.runtime.free_memory import TidyInterpreter
from qpass.runtime.storage import SpilledTensor, Storage


class SideBySide:
    """Runs several batches through a graph: each node for all of them before the next node.

    Values that do not depend on a batch are computed once for all of them and stay in memory.

    Args:
        graph_module: The graph to run.
        batches: Model inputs.
        also_read: For a node, one more node whose value is kept until that node has run.
        storage: Where values are kept between nodes; None keeps them in memory.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        batches: Sequence[ModelInputs],
        *,
        also_read: Mapping[fx.Node, fx.Node] | None = None,
        storage: Storage | None = None,
    ) -> None:
        nodes = list(graph_module.graph.nodes)
        storage = Storage() if storage is None else storage
        self._graph_module, self._batches = graph_module, batches
        self._placeholders = [node for node in nodes if node.op == "placeholder"]
        self._interpreter = TidyInterpreter(graph_module, garbage_collect_values=False)
        self._constants = constant_nodes(graph_module)
        self._values = [_Values(storage) for _ in batches]
        self._reads = {
            node: {*node.all_input_nodes, *([also_read[node]] if also_read and node in also_read else ())} for node in nodes
        }
        self._pending = Counter(read for reads in self._reads.values() for read in reads)

    def step(self, node: fx.Node, change: Callable[[int, Any], Any] = lambda _, value: value) -> None:
        """Runs one node whose inputs have run; a value is dropped after its last reader.

        Args:
            node: The node to run.
            change: Takes a batch's index and the node's output for it, and returns the output to use. The
                node's inputs are still available.
        """
        if node in self._constants:
            self._share(node)
        else:
            for index, values in enumerate(self._values):
                self._interpreter.env = values
                given = self._input(node, index) if node.op == "placeholder" else self._interpreter.run_node(node)
                values[node] = change(index, given)
        for read in self._reads[node]:
            self._pending[read] -= 1
            if not self._pending[read]:
                for values in self._values:
                    del values[read]

    def values(self, node: Any) -> Sequence[Any]:
        """Returns the output for each batch, read lazily, of a node that has run and still has readers."""
        return _OfEachBatch(self._values, node)

    def _share(self, constant: fx.Node) -> None:
        """Computes a constant once and gives the same tensor to every batch."""
        for values in self._values[:1]:
            self._interpreter.env = values
            given = self._interpreter.run_node(constant)
        for values in self._values:
            values.share(constant, given)

    def _input(self, placeholder: fx.Node, index: int) -> Any:
        flat = self._graph_module.graph.process_inputs(*flat_inputs(self._graph_module, *self._batches[index]))
        return flat[self._placeholders.index(placeholder)]


class _Values(dict[fx.Node, Any]):
    """Node outputs for one batch, with tensors in a storage."""

    def __init__(self, storage: Storage) -> None:
        super().__init__()
        self._storage = storage

    def share(self, node: fx.Node, value: Any) -> None:
        """Holds a value that all batches share, which needs no storage."""
        super().__setitem__(node, value)

    def __setitem__(self, node: fx.Node, value: Any) -> None:
        keep = lambda leaf: self._storage.keep(leaf) if isinstance(leaf, Tensor) else leaf  # noqa: E731
        super().__setitem__(node, pytree.tree_map(keep, value))

    def __getitem__(self, node: fx.Node) -> Any:
        read = lambda leaf: leaf.read() if isinstance(leaf, SpilledTensor) else leaf  # noqa: E731
        return pytree.tree_map(read, super().__getitem__(node))


class _OfEachBatch(Sequence[Any]):
    def __init__(self, values: Sequence[_Values], node: fx.Node) -> None:
        self._values, self._node = values, node

    def __len__(self) -> int:
        return len(self._values)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return _OfEachBatch(self._values[index], self._node)
        return self._values[index][self._node]
