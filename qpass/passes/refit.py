"""quantized -> refitted: fits activation quantizers again, in order, on what the quantized network before them gives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from qpass.data import ModelInputs
from qpass.graph import describe, flat_inputs, info
from qpass.observers import HistogramObserver
from qpass.passes.base import Pass
from qpass.progress import track
from qpass.quantizers import Quantizer


class RefitQuantizers(Pass):
    """Takes all batches through the network side by side, node by node, and fits each quantizer when they reach it.

    So every quantizer is fitted behind those before it, as RepQ-ViT's published code initialises them; that of a folded
    LayerNorm output too, one scale for all its channels, which the fold has made alike. A quantizer fitted by the error of a
    product stays: it was fitted to a pair of tensors. Memory holds what is alive between two nodes, for all batches.

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
        kept = info(graph_module)["product_statistics"]
        runs = [fx.Interpreter(graph_module) for _ in self.batches]
        for run, batch in zip(runs, self.batches, strict=True):
            run.args_iter = iter(graph_module.graph.process_inputs(*flat_inputs(graph_module, *batch)))
        with torch.no_grad():
            for node in track(list(graph_module.graph.nodes)[:-1], "refit", show=self.show_progress):
                module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
                if isinstance(module, Quantizer) and node.args[0].name not in kept:
                    observer = HistogramObserver(describe(node))
                    for run in runs:
                        observer.update(run.env[node.args[0]])
                    module.fit(*observer.samples())
                for run in runs:
                    run.env[node] = run.run_node(node)
                    for dead in run.user_to_last_uses.get(node, ()):
                        del run.env[dead]
        return False
