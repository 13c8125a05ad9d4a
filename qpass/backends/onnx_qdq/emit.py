"""A small writer of onnx_ir nodes: collects the nodes that replace one node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

#: Domain of onnxruntime's own operators.
CONTRIB_DOMAIN = "com.microsoft"


@dataclass(frozen=True)
class LoweringOptions:
    """What lowerings do in one way or another, by the runtime that the file is for.

    Attributes:
        clips_codes: Codes below 8 bits are clipped as bytes behind QuantizeLinear (cheapest); else as floats before it.
        weight_zero_points: Weights keep their zero points; else these are subtracted from the codes where 8 bits hold the rest.
        wide_int8: Second factors of 8 bits are int8; else uint8, 128 more. Those of fewer bits are int8 in any case.
    """

    clips_codes: bool = True
    weight_zero_points: bool = True
    wide_int8: bool = True


class Emitter:
    """Builds nodes and initializers for one replacement.

    Args:
        graph: Graph that initializers are registered with.
        prefix: Start of the names of values and initializers made here.
        options: What the file's runtime wants.
    """

    def __init__(self, graph: ir.Graph, prefix: str, options: LoweringOptions = LoweringOptions()) -> None:
        self.graph, self.prefix, self.nodes = graph, prefix, list[ir.Node]()
        self.options = options

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        dtype: ir.DataType | None = None,
        shape: ir.Shape | None = None,
        domain: str = "",
    ) -> ir.Value:
        """Adds a node with one output and returns that."""
        node = ir.node(op_type, inputs, attributes or {}, domain=domain)
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
