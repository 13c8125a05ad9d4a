"""The float network that a quantized graph came from, with the same nodes."""

from __future__ import annotations

import copy

from torch import fx

from qpass.quantizers import Quantizer


def float_reference(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Returns a copy of a graph that is not frozen with every quantizer switched off: node by node the float numbers."""
    reference = copy.deepcopy(graph_module)
    for module in reference.modules():
        if isinstance(module, Quantizer):
            module.enabled = False
    return reference
