"""Buffers that a model writes into: their contents must not affect the outputs of the next call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx

from qpass.errors import TraceError
from qpass.graph.edit import ancestors, example_inputs, flat_inputs
from qpass.runtime.torch_modes import kept_random_state


def refuse_state(graph_module: fx.GraphModule, written: Mapping[fx.Node, fx.Node]) -> None:
    """Refuses a model whose outputs depend on what earlier calls left in its buffers.

    Accepts buffers that are written before they are read, counters that no output reads, and values
    that every call leaves the same: the graph computes them without the write.

    Args:
        graph_module: The rewritten graph, before dead nodes are removed.
        written: For each tensor that is written into, the node of its value at the end of a call.

    Raises:
        TraceError: If the outputs depend on them. Names the buffers.
    """
    output = next(node for node in graph_module.graph.nodes if node.op == "output")
    needed = ancestors(output)
    states = {node: last for node, last in written.items() if node.op == "get_attr" and node in needed}
    if not states:
        return
    first, _ = _run(graph_module, output, states, {}, other=False)
    _, left = _run(graph_module, output, states, {}, other=True)
    second, _ = _run(graph_module, output, states, left, other=False)
    same = [torch.equal(a, b) for a, b in zip(_tensors(first), _tensors(second), strict=True)]
    if not all(same):
        names = ", ".join(str(node.target) for node in states)
        raise TraceError(
            "its outputs depend on what former calls wrote into it",
            where=names,
            expected="a forward that gives the same outputs for the same inputs, however often it is called",
            hint="pass the state as an input, or write to it outside of forward",
        )


class _Run(fx.Interpreter):
    """Runs a graph with some tensors replaced, and keeps the outputs of some nodes."""

    def __init__(self, graph_module: fx.GraphModule, own: Mapping[fx.Node, Any], wanted: set[fx.Node]) -> None:
        super().__init__(graph_module)
        self._own, self._wanted = own, wanted
        self.kept: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Runs one node."""
        result = self._own[n] if n in self._own else super().run_node(n)
        if n in self._wanted:
            self.kept[n] = result
        return result


def _run(
    graph_module: fx.GraphModule, output: fx.Node, states: Mapping[fx.Node, fx.Node], own: Mapping[fx.Node, Any], *, other: bool
) -> tuple[Any, dict[fx.Node, Any]]:
    """Returns the outputs and each tensor's final value, on the example inputs or on others like them."""
    args, kwargs = example_inputs(graph_module)
    inputs = flat_inputs(graph_module, args, kwargs)
    if other:
        inputs = [_other(leaf) for leaf in inputs]
    run = _Run(graph_module, own, set(states.values()))
    with torch.no_grad(), kept_random_state():
        outputs = run.run(*inputs)
    return outputs, {node: run.kept[last] for node, last in states.items()}


def _other(leaf: Any) -> Any:
    return pytree.tree_map(lambda t: 0.5 - t.flip(0) if isinstance(t, Tensor) and t.is_floating_point() else t, leaf)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
