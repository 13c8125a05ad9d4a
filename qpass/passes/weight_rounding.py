"""quantized -> quantized and fitted -> fitted: weights stay float where learning needs it.

Paper: I&S-ViT, https://arxiv.org/abs/2311.10126, smooth optimization strategy.
"""

from __future__ import annotations

from operator import methodcaller

from torch import fx

from qpass.nn import QuantizedLayer
from qpass.passes.analysis.fitted import fit_again
from qpass.passes.base import Pass
from qpass.quantizers import Quantizer


class SuspendWeightRounding(Pass):
    """Disables the weight quantizers."""

    takes, gives = "quantized", "quantized"

    def run(self, graph_module: fx.GraphModule) -> bool:
        """See ``Pass.run``. The graph is unchanged; its layers multiply by float weights."""
        for _, quantizer in _weights(graph_module):
            quantizer.enabled = False
        return False


class ResumeWeightRounding(Pass):
    """Refits the weight quantizers to the current weights and enables them."""

    takes, gives = "fitted", "fitted"

    def run(self, graph_module: fx.GraphModule) -> bool:
        """See ``Pass.run``."""
        changed = False
        for layer, quantizer in _weights(graph_module):
            quantizer.enabled = True
            weight = layer.effective_weight().detach().flatten(1)
            changed |= fit_again(quantizer, methodcaller("fit", weight))
        return changed


def _weights(graph_module: fx.GraphModule) -> list[tuple[QuantizedLayer, Quantizer]]:
    layers = [module for module in graph_module.modules() if isinstance(module, QuantizedLayer)]
    return [(layer, layer.quantizer) for layer in layers if layer.quantizer is not None]
