"""Names for the outputs of quantized layers, to compare a file with its graph layer by layer.

The graph to export has a ``qpass::Output`` node after each of these values. Lowering removes this
node and names the value after it. Rewrite rules keep the names of the values they replace. In the
file, the *node* that computes the value has the name, because values have short names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import onnx_ir as ir
import torch
from torch import Tensor, fx

from qpass.graph.edit import MOVEMENT_OPS, aten, called_module, is_call, shape_of
from qpass.nn import QuantizedLayer
from qpass.passes.add_residual import sum_with_residual
from qpass.passes.analysis.sources import quantizer_of
from qpass.quantizers import Quantizer

#: Suffix of the name of the node that computes a layer's output.
OUTPUT = ".output"
#: The operator that marks a layer's output until lowering, and its attribute that holds the name.
MARK, _NAME = "Output", "name"
#: Products of two activations, and operators that scale them by a constant.
PRODUCTS = (aten.matmul.default, aten.bmm.default)
SCALINGS = (aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar)


def layer_outputs(graph_module: fx.GraphModule) -> dict[str, fx.Node]:
    """Returns the output nodes of quantized layers and integer products by name, in execution order.

    A layer and its residual branch count as one, because they may be one product in the file. A
    product of activations includes the constant scaling after it. A product that only quantizers
    read is left out: the inputs of its quantizers are compared instead.
    """
    nodes = list(graph_module.graph.nodes)
    layers = [node for node in nodes if isinstance(called_module(graph_module, node), QuantizedLayer)]
    calls = Counter(str(node.target) for node in layers)
    ends = {node: sum_with_residual(graph_module, node) for node in layers}
    branches = {end.args[1] for node, end in ends.items() if end is not node}
    found = {
        str(node.target) if calls[str(node.target)] == 1 else node.name: ends[node] for node in layers if node not in branches
    }
    products = [node for node in nodes if is_call(node, *PRODUCTS) and all(quantizer_of(graph_module, x) for x in node.args)]
    found |= {node.name: _scaled(node) for node in products if not _is_only_quantized(graph_module, node)}
    place = {node: index for index, node in enumerate(nodes)}
    return dict(sorted(found.items(), key=lambda item: place[item[1]]))


def _scaled(product: fx.Node) -> fx.Node:
    """Returns the last constant scaling after a product, or the product itself."""
    node = product
    while len(node.users) == 1:
        (reader,) = node.users
        if not is_call(reader, *SCALINGS) or reader.args[0] is not node or not _is_number(reader.args[1]):
            break
        node = reader
    return node


def _is_number(value: object) -> bool:
    if isinstance(value, fx.Node):
        return value.op == "get_attr" and shape_of(value) in ((), (1,))
    return isinstance(value, (int, float))


def _is_only_quantized(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    return bool(node.users) and all(
        isinstance(called_module(graph_module, user), Quantizer)
        or (is_call(user, *MOVEMENT_OPS) and _is_only_quantized(graph_module, user))
        for user in node.users
    )


def mark_layer_outputs(graph_module: fx.GraphModule, outputs: Mapping[str, fx.Node], domain: str) -> None:
    """Inserts a marker node after each of these values, in place.

    Args:
        graph_module: A copy of a quantized graph, to be exported.
        outputs: ``layer_outputs`` of the graph.
        domain: Domain of the marker nodes in the exported graph.
    """
    nodes = {node.name: node for node in graph_module.graph.nodes}
    for name, original in outputs.items():
        node = nodes[original.name]
        with graph_module.graph.inserting_after(node):
            mark = graph_module.graph.call_function(_marked, (node, name, domain))
        node.replace_all_uses_with(mark, delete_user_cb=lambda user, mark=mark: user is not mark)
    graph_module.recompile()


def _marked(x: Tensor, name: str, domain: str) -> Tensor:
    return torch.onnx.ops.symbolic(f"{domain}::{MARK}", (x,), {_NAME: name}, dtype=x.dtype, shape=x.shape, version=1)


def take_marks(graph: ir.Graph, marks: Iterable[ir.Node]) -> None:
    """Removes the nodes of ``mark_layer_outputs`` and names their inputs, in place.

    Graph outputs lose their own names.
    """
    for mark in marks:
        (value,) = mark.inputs
        assert value is not None
        ir.convenience.replace_all_uses_with(mark.outputs[0], value, replace_graph_outputs=True)
        if value.producer() is not None:
            value.name = mark.attributes[_NAME].as_string() + OUTPUT
        graph.remove(mark, safe=True)


def name_layer_outputs(graph: ir.Graph, outputs: Sequence[str | None]) -> None:
    """Names nodes after the marked values they compute and restores the graph's output names, in place."""
    for node in graph:
        for value in node.outputs:
            if value.name and value.name.endswith(OUTPUT):
                node.name = value.name
    for value, name in zip(graph.outputs, outputs, strict=True):
        value.name = name
