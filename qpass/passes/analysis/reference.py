"""fitted -> fitted: the float network that a quantized graph came from, with the same nodes."""

from __future__ import annotations

import copy

from torch import fx

from qpass.passes.base import Pass
from qpass.quantizers import Quantizer


class Reference:
    """The float network beside a graph, shared by the passes that compare with it.

    Attributes:
        graph: The network, or None to use the graph with its quantizers disabled.
    """

    def __init__(self) -> None:
        self.graph: fx.GraphModule | None = None

    def beside(self, graph_module: fx.GraphModule) -> fx.GraphModule:
        """Returns the float network of a graph."""
        return float_reference(graph_module) if self.graph is None else self.graph


class KeepReference(Pass):
    """Keeps the float network before anything is learned; ``FoldLayerNorm`` folds it too.

    Args:
        reference: Receives the network, unless it has one.
    """

    takes, gives = "fitted", "fitted"

    def __init__(self, reference: Reference) -> None:
        self.reference = reference

    def run(self, graph_module: fx.GraphModule) -> bool:
        """See ``Pass.run``."""
        self.reference.graph = self.reference.beside(graph_module)
        return False


def float_reference(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Returns a copy of an unfrozen graph with every quantizer disabled: the same nodes, in float."""
    reference = copy.deepcopy(graph_module)
    for module in reference.modules():
        if isinstance(module, Quantizer):
            module.enabled = False
    return reference
