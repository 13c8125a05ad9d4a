"""quantized -> refitted: fits activation quantizers again, on what the quantized network before them gives."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from qpass.data import ModelInputs
from qpass.graph import describe, info
from qpass.observers import HistogramObserver
from qpass.passes.base import Pass
from qpass.passes.calibrate import Listener, listen
from qpass.quantizers import Quantizer


class RefitQuantizers(Pass):
    """Runs the data through the quantized network once more and fits every tensor's quantizer to what arrives there.

    RepQ-ViT's published code initialises its quantizers in order, each behind those before it; this is the same with one
    run for all. Scales that a LayerNorm fold has fixed stay: the folded weights were made for them. A quantizer fitted by
    the error of a product stays too: it was fitted to a pair of tensors.

    Args:
        batches: Calls of the model; empty leaves everything as it is.
        show_progress: Show a bar.
    """

    takes, gives = "quantized", "refitted"

    def __init__(self, batches: Sequence[ModelInputs], *, show_progress: bool = False) -> None:
        self.batches, self.show_progress = batches, show_progress

    def run(self, graph_module: fx.GraphModule) -> bool:
        """See ``Pass.run``. Parameters change, the graph does not."""
        if not self.batches:
            return False
        kept = {*info(graph_module)["fixed_quantizers"], *info(graph_module)["product_statistics"]}
        quantizers: dict[fx.Node, Quantizer] = {}
        for node in graph_module.graph.nodes:
            module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
            if isinstance(module, Quantizer) and node.args[0].name not in kept:
                quantizers[node] = module
        sources = {node.args[0]: HistogramObserver(describe(node)) for node in quantizers}
        listen(Listener(graph_module, [sources], {}), self.batches, "refit", show_progress=self.show_progress)
        for node, quantizer in quantizers.items():
            quantizer.fit(*sources[node.args[0]].samples())
        return False
