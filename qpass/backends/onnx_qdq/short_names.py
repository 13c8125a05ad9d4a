"""Short names for values that nothing looks up by name."""

from __future__ import annotations

import itertools

import onnx_ir as ir

from qpass.backends.onnx_qdq.lowerings import CODES


def shorten_names(graph: ir.Graph) -> None:
    """Numbers the outputs of nodes in place, except graph outputs and quantizers' codes.

    A file repeats a value's name wherever the value is read, but nobody looks for it: runtimes
    report node names. Nodes therefore keep the name of the layer that they were made for.
    """
    taken = {value.name for value in [*graph.inputs, *graph.initializers.values()]}
    taken |= {value.name for node in graph.all_nodes() for value in node.outputs}
    free = (name for number in itertools.count() if (name := f"_{number}") not in taken)
    for node in graph:
        for value in node.outputs:
            if node.name == f"{value.name}.node":
                node.name = value.name
            if value.name and not value.is_graph_output() and not value.name.endswith(CODES):
                value.name = next(free)
