"""fitted -> fitted: the float network that a quantized graph came from, with the same nodes."""

from __future__ import annotations

import copy

from torch import fx

from qpass.graph.edit import info
from qpass.passes.analysis.statistics import STATISTICS, forget_statistics
from qpass.passes.base import Pass
from qpass.quantizers import Quantizer


class KeepReference(Pass):
    """Keeps the float network beside the graph, before anything is learned; ``FoldLayerNorm`` folds it too."""

    takes, gives = "fitted", "fitted"

    def run(self, graph_module: fx.GraphModule) -> bool:
        """See ``Pass.run``."""
        if "reference" not in info(graph_module):
            info(graph_module)["reference"] = float_reference(graph_module)
        return False


def reference_of(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Returns the float network that ``KeepReference`` left, or the graph's own with every quantizer switched off."""
    return info(graph_module).get("reference") or float_reference(graph_module)


def float_reference(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Returns a copy of a graph that is not frozen with every quantizer switched off: node by node the float numbers."""
    left_out = {id(info(graph_module).get(key)): None for key in STATISTICS}  # nobody asks a reference for them
    reference = copy.deepcopy(graph_module, left_out)
    forget_statistics(reference)
    for module in reference.modules():
        if isinstance(module, Quantizer):
            module.enabled = False
    return reference
