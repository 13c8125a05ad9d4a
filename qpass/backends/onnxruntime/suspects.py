"""Finds the layers an error may come from: a wrong result depends on them, and no right one does."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch.utils._pytree as pytree
from torch import fx

from qpass.backends.onnxruntime.perturbed import behind_quantizers
from qpass.graph.edit import called_module, module_path
from qpass.nn import QuantizedLayer
from qpass.quantizers import Quantizer

#: Maximum names of each kind for one quantizer or output.
_NAMED = 4


def suspects(
    graph_module: fx.GraphModule, wrong: Collection[str | int], right: Collection[str | int]
) -> Mapping[str | int, tuple[str, ...]]:
    """Returns, for each wrong end, its layers that no earlier right end depends on.

    Layers are followed back to the previous quantizers. Later right ends clear nothing: the error
    may be too small to show there. If right ends depend on all of the layers, the layers are named
    anyway: one layer may compute wrong keys and right queries and values.

    Args:
        graph_module: The graph.
        wrong: Names of quantizers with wrong inputs, and indices of wrong outputs.
        right: Names and indices of the right ones.
    """
    found: dict[str | int, tuple[str, ...]] = {}
    cleared: dict[fx.Node, None] = {}
    for end, given in _ends(graph_module).items():
        reached = behind_quantizers(graph_module, given)
        if end in right:
            cleared |= reached
        elif end in wrong:
            left = [node for node in reached if node not in cleared] or list(reached)
            found[end] = _names(graph_module, left) if _layers(graph_module, left) else _names(graph_module, [*reached])
    return found


def _ends(graph_module: fx.GraphModule) -> dict[str | int, list[fx.Node]]:
    """Returns the inputs of each quantizer, by name, and of each output, by index, in execution order."""
    found: dict[str | int, list[fx.Node]] = {}
    for node in graph_module.graph.nodes:
        if isinstance(called_module(graph_module, node), Quantizer):
            found[str(node.target)] = node.all_input_nodes
    output = next(node for node in graph_module.graph.nodes if node.op == "output")
    leaves = [leaf for leaf in pytree.tree_leaves(output.args[0]) if leaf is not None]
    return found | {number: [leaf] for number, leaf in enumerate(leaves) if isinstance(leaf, fx.Node)}


def _names(graph_module: fx.GraphModule, nodes: Sequence[fx.Node]) -> tuple[str, ...]:
    """Names quantized layers, quantizers whose codes are read, and the modules of other operators."""
    layers, quantizers, others = _layers(graph_module, nodes), list[str](), list[str]()
    for node in nodes:
        if isinstance(called_module(graph_module, node), Quantizer):
            quantizers.append(str(node.target))
        elif node.op == "call_function":
            others.append(module_path(node) or node.name)
    return tuple(dict.fromkeys([*layers[:_NAMED], *quantizers[:_NAMED], *list(dict.fromkeys(others))[:_NAMED]]))


def _layers(graph_module: fx.GraphModule, nodes: Sequence[fx.Node]) -> list[str]:
    return [str(node.target) for node in nodes if isinstance(called_module(graph_module, node), QuantizedLayer)]
