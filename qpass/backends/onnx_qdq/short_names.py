"""Short names for values that are not asked for by name."""

from __future__ import annotations

import itertools

import onnx_ir as ir

from qpass.backends.onnx_qdq.lowerings import CODES


def shorten_names(graph: ir.Graph) -> None:
    """Numbers what nodes give, save for outputs of the graph and codes of quantizers, in place.

    A value's name stands in a file wherever it is read, and nobody looks for it: runtimes name the node in their messages. So
    nodes keep the name of the layer that they were made for.
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
