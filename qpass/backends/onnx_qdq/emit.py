"""Builds the onnx_ir nodes that replace one node."""

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
    """Choices of the lowerings that depend on the target runtime.

    Attributes:
        clips_codes: Clip codes below 8 bits as bytes after QuantizeLinear (cheapest); otherwise
            clip floats before it.
        weight_zero_points: Keep the zero points of weights; otherwise subtract them from the codes
            where the result fits 8 bits.
        wide_int8: Store 8-bit second operands as int8; otherwise as uint8, offset by 128. Operands
            of fewer bits are always int8.
        expands_at_load: Store the codes and tables of weights' codebooks, for the runtime to expand
            when it loads the file; otherwise store the expanded bytes.
        explicit: Write explicit quantization, as TensorRT parses it: codes stand only between a
            QuantizeLinear and a DequantizeLinear, or in front of a weight's DequantizeLinear, in the
            shape that the product reads. Nothing moves, casts or packs them. Biases are float,
            convolutions stay ``Conv``, and weights of layers with a float input are stored as floats.
    """

    clips_codes: bool = True
    weight_zero_points: bool = True
    wide_int8: bool = True
    expands_at_load: bool = True
    explicit: bool = False


class Emitter:
    """Builds nodes and initializers for one replacement.

    Args:
        graph: Graph to register initializers in.
        prefix: Prefix of the names of new values and initializers.
        options: Choices for the target runtime.
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
        """Adds a node with one output and returns the output."""
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
        """Registers an initializer ``prefix.name`` and returns it, or the one already there."""
        full = f"{self.prefix}.{name}"
        if full in self.graph.initializers:
            return self.graph.initializers[full]
        array = np.asarray(array, dtype=np.int64) if not isinstance(array, np.ndarray) else array
        tensor = ir.Tensor(array, dtype=dtype, name=full) if dtype is not None else ir.Tensor(array, name=full)
        value = ir.Value(name=full, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def replace(self, node: ir.Node, output: ir.Value) -> None:
        """Replaces ``node`` with the collected nodes, and its first output with ``output``."""
        old = node.outputs[0]
        if output.shape is None:
            output.shape = old.shape
        if output.dtype is None and old.dtype is not None:
            output.dtype = old.dtype
        ir.convenience.replace_nodes_and_values(self.graph, node, [node], self.nodes, [old], [output])
