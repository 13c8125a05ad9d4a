"""Transformer blocks of a traced graph, found by module paths rather than class names."""

from __future__ import annotations

import re

from torch import fx

from qpass.errors import UnsupportedError
from qpass.graph.edit import get_plan, is_inside, module_path
from qpass.passes.base import Pass
from qpass.passes.plan import Declined, LayerPlan

_NUMBERED = re.compile(r"(?:^|\.)\d+(?=\.|$)")


def find_blocks(graph_module: fx.GraphModule) -> dict[str, fx.Node]:
    """Returns, for each block, the node of the float or quantized graph that computes its output.

    A block is the smallest numbered module (``blocks.3``, ``layers.1.blocks.0``) that holds both a
    Linear and attention (a matmul, or a Softmax that weights each channel, as for point clouds). Its
    output is the last tensor computed inside it that is read outside.
    """
    kinds: dict[str, set[str]] = {}
    for node in graph_module.graph.nodes:
        plan = get_plan(node)
        if isinstance(plan, (LayerPlan, Declined)):
            for path in _numbered_prefixes(plan.path):
                kinds.setdefault(path, set()).add(plan.kind)
    candidates = [path for path, found in kinds.items() if "linear" in found and found & {"matmul", "softmax"}]
    smallest = [p for p in candidates if not any(other.startswith(p + ".") for other in candidates)]
    outputs: dict[str, fx.Node] = {}
    for node in graph_module.graph.nodes:
        own, readers = module_path(node), [module_path(user) for user in node.users]
        for path in smallest if node.meta.get("shape") else ():
            if is_inside(own, path) and not all(is_inside(reader, path) for reader in readers):
                outputs[path] = node
    return {path: outputs[path] for path in smallest if path in outputs}


def require_blocks(graph_module: fx.GraphModule) -> dict[str, fx.Node]:
    """Returns the blocks of a graph that will be learned block by block.

    Raises:
        UnsupportedError: If there are none.
    """
    blocks = find_blocks(graph_module)
    if not blocks:
        raise UnsupportedError(
            "the graph has no transformer block to learn",
            where="reconstruct",
            expected="numbered modules (blocks.0, ...) that hold attention and Linears",
            hint="choose a recipe that does not learn, such as 'w4a4' without polish",
        )
    return blocks


class RequireBlocks(Pass):
    """annotated -> annotated: rejects a graph without blocks before the work that precedes learning."""

    takes, gives = "annotated", "annotated"

    def run(self, graph_module: fx.GraphModule) -> bool:
        """See ``Pass.run``.

        Raises:
            UnsupportedError: If the graph has no transformer block.
        """
        require_blocks(graph_module)
        return False


def _numbered_prefixes(path: str) -> list[str]:
    return [path[: match.end()] for match in _NUMBERED.finditer(path)]
