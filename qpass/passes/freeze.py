"""refitted -> frozen: weights become integer codes; the graph holds only what will be deployed."""

from __future__ import annotations

from torch import fx

from qpass.nn import QuantizedLayer
from qpass.passes.base import Pass


class Freeze(Pass):
    """Freezes every quantized layer."""

    takes, gives = "refitted", "frozen"

    def run(self, graph_module: fx.GraphModule) -> bool:
        """See ``Pass.run``."""
        layers = [module for module in graph_module.modules() if isinstance(module, QuantizedLayer)]
        return any([layer.freeze() for layer in layers])
