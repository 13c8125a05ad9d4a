"""Extracts the operators of a file that compute some of its values."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import onnx
from onnx import TensorProto, helper


def excerpt(model: onnx.ModelProto, outputs: Sequence[str], given: Collection[onnx.ValueInfoProto] = ()) -> onnx.ModelProto:
    """Returns the part of a model that computes these values.

    Args:
        model: The model; not modified.
        outputs: Names of float values that operators of the model compute.
        given: Values that become inputs instead of being computed.
    """
    inputs = {value.name: value for value in (*model.graph.input, *given)}
    producers = {name: node for node in model.graph.node for name in node.output}
    needed, waiting = set[str](), list(outputs)
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += [] if name in inputs or name not in producers else _read(producers[name])
    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = part.graph
    graph.name = "excerpt"
    made = {name for name in needed if name not in inputs}
    graph.node.extend(node for node in model.graph.node if made.intersection(node.output))
    graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in needed)
    graph.input.extend(value for name, value in inputs.items() if name in needed)
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs)
    return part


def _read(node: onnx.NodeProto) -> Iterator[str]:
    """Yields the names that a node reads, including in its subgraphs."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _read(inner)
