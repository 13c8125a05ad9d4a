"""A small writer of onnx_ir nodes: collects the nodes that replace one node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir


class Emitter:
    """Builds nodes and initializers for one replacement.

    Args:
        graph: Graph that initializers are registered with.
        prefix: Start of the names of values and initializers made here.
    """

    def __init__(self, graph: ir.Graph, prefix: str) -> None:
        self.graph, self.prefix, self.nodes = graph, prefix, list[ir.Node]()

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        dtype: ir.DataType | None = None,
        shape: ir.Shape | None = None,
    ) -> ir.Value:
        """Adds a node with one output and returns that."""
        node = ir.node(op_type, inputs, attributes or {})
        value = node.outputs[0]
        value.name = name or f"{self.prefix}.{op_type.lower()}_{len(self.nodes)}"
        node.name = f"{value.name}.node"
        value.shape = shape
        if dtype is not None:
            value.dtype = dtype
        self.nodes.append(node)
        return value

    def constant(self, name: str, array: np.ndarray | Sequence[int], dtype: ir.DataType | None = None) -> ir.Value:
        """Registers an initializer ``prefix.name`` and returns it; the same name again returns the first."""
        full = f"{self.prefix}.{name}"
        if full in self.graph.initializers:
            return self.graph.initializers[full]
        array = np.asarray(array, dtype=np.int64) if not isinstance(array, np.ndarray) else array
        tensor = ir.Tensor(array, dtype=dtype, name=full) if dtype is not None else ir.Tensor(array, name=full)
        value = ir.Value(name=full, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def replace(self, node: ir.Node, output: ir.Value) -> None:
        """Puts the collected nodes in the place of ``node``; ``output`` takes over its first output."""
        old = node.outputs[0]
        if output.shape is None:
            output.shape = old.shape
        if output.dtype is None and old.dtype is not None:
            output.dtype = old.dtype
        ir.convenience.replace_nodes_and_values(self.graph, node, [node], self.nodes, [old], [output])
