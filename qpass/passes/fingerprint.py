"""Fingerprint of what a pass may change: the nodes of a graph, their plans, and its tensors."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, fx

from qpass.graph.edit import get_plan


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """The state of a graph. Equal fingerprints mean that the graph has not changed.

    A tensor is identified by its object and its version counter, so no values are read or copied.

    Attributes:
        nodes: The nodes and their plans, as text.
        tensors: Each parameter and buffer with its version, by name.
    """

    nodes: str
    tensors: dict[str, tuple[weakref.ref[Tensor], int]]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Fingerprint):
            return NotImplemented
        return self.nodes == other.nodes and self._tensors_equal(other)

    __hash__ = None  # type: ignore[assignment]

    def _tensors_equal(self, other: Fingerprint) -> bool:
        if self.tensors.keys() != other.tensors.keys():
            return False
        pairs = ((one, other.tensors[name]) for name, one in self.tensors.items())
        return all(a() is not None and a() is b() and own == theirs for (a, own), (b, theirs) in pairs)


def fingerprint(graph_module: fx.GraphModule) -> Fingerprint:
    """Returns the fingerprint of a graph."""
    nodes = "\n".join(f"{node.format_node()} {get_plan(node)}" for node in graph_module.graph.nodes)
    return Fingerprint(nodes, {name: (weakref.ref(tensor), _version(tensor)) for name, tensor in _tensors(graph_module)})


def _tensors(graph_module: fx.GraphModule) -> Iterator[tuple[str, Tensor]]:
    yield from graph_module.named_parameters(remove_duplicate=False)
    yield from graph_module.named_buffers(remove_duplicate=False)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
