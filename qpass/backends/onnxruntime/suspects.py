"""Which layers an error comes from: those that something wrong depends on and nothing right does."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch.utils._pytree as pytree
from torch import fx

from qpass.backends.onnxruntime.perturbed import behind_quantizers
from qpass.graph.edit import called_module, module_path
from qpass.nn import QuantizedLayer
from qpass.quantizers import Quantizer

#: Of each kind so many are named for one quantizer or output.
_NAMED = 4


def suspects(
    graph_module: fx.GraphModule, wrong: Collection[str | int], right: Collection[str | int]
) -> Mapping[str | int, tuple[str, ...]]:
    """Returns, for each wrong end, the layers between it and the quantizers before that no right end before it depends on.

    Right ends behind it clear nothing: what is wrong may be too small there to be seen. Where right ends depend on all layers,
    as where only the keys are wrong that one layer makes beside queries and values, the layers are named all the same.

    Args:
        graph_module: The graph.
        wrong: Names of quantizers whose input is wrong, and numbers of outputs that are.
        right: Those that are not.
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
    """Returns what each quantizer, by name, and each output, by number, is given, in order of execution."""
    found: dict[str | int, list[fx.Node]] = {}
    for node in graph_module.graph.nodes:
        if isinstance(called_module(graph_module, node), Quantizer):
            found[str(node.target)] = node.all_input_nodes
    output = next(node for node in graph_module.graph.nodes if node.op == "output")
    leaves = [leaf for leaf in pytree.tree_leaves(output.args[0]) if leaf is not None]
    return found | {number: [leaf] for number, leaf in enumerate(leaves) if isinstance(leaf, fx.Node)}


def _names(graph_module: fx.GraphModule, nodes: Sequence[fx.Node]) -> tuple[str, ...]:
    """Returns quantized layers, quantizers whose codes are read, and the paths of the modules of other operators."""
    layers, quantizers, others = _layers(graph_module, nodes), list[str](), list[str]()
    for node in nodes:
        if isinstance(called_module(graph_module, node), Quantizer):
            quantizers.append(str(node.target))
        elif node.op == "call_function":
            others.append(module_path(node) or node.name)
    return tuple(dict.fromkeys([*layers[:_NAMED], *quantizers[:_NAMED], *list(dict.fromkeys(others))[:_NAMED]]))


def _layers(graph_module: fx.GraphModule, nodes: Sequence[fx.Node]) -> list[str]:
    return [str(node.target) for node in nodes if isinstance(called_module(graph_module, node), QuantizedLayer)]
