"""Several batches through a graph at the same time, so that each node can be changed before any value passes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx

from qpass.data import ModelInputs
from qpass.graph import flat_inputs


class SideBySide:
    """Runs several batches through a graph, each node for all of them before the next node.

    Args:
        graph_module: What to run.
        batches: Calls of the model.
        also_read: One more node that is kept until the node in front of it has run.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        batches: Sequence[ModelInputs],
        *,
        also_read: Mapping[fx.Node, fx.Node] | None = None,
    ) -> None:
        self._runs = [fx.Interpreter(graph_module, garbage_collect_values=False) for _ in batches]
        for run, batch in zip(self._runs, batches, strict=True):
            run.args_iter = iter(graph_module.graph.process_inputs(*flat_inputs(graph_module, *batch)))
        self._reads = {
            node: {*node.all_input_nodes, *([also_read[node]] if also_read and node in also_read else ())}
            for node in graph_module.graph.nodes
        }
        self._pending = Counter(read for reads in self._reads.values() for read in reads)

    def step(self, node: fx.Node) -> None:
        """Runs one node whose inputs have run; a value is dropped after its last reader."""
        for run in self._runs:
            run.env[node] = run.run_node(node)
        for read in self._reads[node]:
            self._pending[read] -= 1
            if not self._pending[read]:
                for run in self._runs:
                    del run.env[read]

    def values(self, node: Any) -> list[Any]:
        """Returns the output of a node that has run and still has readers, for each batch."""
        return [run.env[node] for run in self._runs]
