"""annotated -> calibrated: runs the batches once and records statistics of every tensor to be fitted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from qpass.config.options import FitCriterion
from qpass.data import ModelInputs
from qpass.graph.edit import describe, flat_inputs, get_plan
from qpass.graph.facts import facts_of, update_facts
from qpass.observers import HistogramObserver, ProductObserver
from qpass.passes.analysis.sources import planned_operands, planned_outputs, quantization_point
from qpass.passes.analysis.statistics import Statistics
from qpass.passes.base import Pass
from qpass.passes.fold_layer_norm import foldable_layer_norms
from qpass.passes.plan import LayerPlan
from qpass.progress import track
from qpass.runtime.distributed import ALONE, Processes
from qpass.runtime.free_memory import TidyInterpreter
from qpass.runtime.storage import Storage

#: A LayerNorm channel has fewer samples and needs fewer bins; there may be thousands of channels.
CHANNEL_BINS = 1024


class Calibrate(Pass):
    """Observes the float graph without changing it.

    Observers are attached to an interpreter rather than inserted as modules. Nothing has to be removed
    afterwards, and one run records both per-tensor and per-channel statistics of a node.

    Args:
        batches: Model inputs; at least one batch.
        statistics: Receives the observers.
        per_channel: Also record LayerNorm outputs per channel, for ``FoldLayerNorm``.
        storage: Where product samples are kept; None keeps them in memory.
        processes: Processes that share the batches; the counts equal those of a single process.
        show_progress: Show a progress bar.
    """

    takes, gives = "annotated", "calibrated"

    def __init__(
        self,
        batches: Sequence[ModelInputs],
        statistics: Statistics,
        *,
        per_channel: bool,
        storage: Storage | None = None,
        processes: Processes = ALONE,
        show_progress: bool = False,
    ) -> None:
        self.batches, self.statistics, self.per_channel = batches, statistics, per_channel
        self.storage, self.processes, self.show_progress = storage, processes, show_progress

    def run(self, graph_module: fx.GraphModule) -> bool:
        """See ``Pass.run``."""
        # In graph order, which is the same in all processes.
        points = dict.fromkeys(quantization_point(*operand) for operand in planned_operands(graph_module))
        points |= dict.fromkeys(planned_outputs(graph_module))
        tensors = {node: HistogramObserver(describe(node)) for node in points}
        norms = self._foldable_layer_norms(graph_module) if self.per_channel else []
        channels = {node: HistogramObserver(describe(node), channel_axis=-1, bins=CHANNEL_BINS) for node in norms}
        products = {node: ProductObserver(describe(node), storage=self.storage) for node in fitted_by_product(graph_module)}
        listener = Listener(graph_module, [tensors, channels], products)
        listen(listener, self.processes.share(self.batches), "calibrate", show_progress=self.show_progress)
        merge_histograms([*tensors.values(), *channels.values()], self.processes)
        merge_products(list(products.values()), self.processes)
        self.statistics.tensors, self.statistics.channels = tensors, channels
        self.statistics.products = {
            quantization_point(node, plan, plan.operands[0]): observer
            for node, observer in products.items()
            if isinstance(plan := get_plan(node), LayerPlan)
        }
        return False

    @staticmethod
    def _foldable_layer_norms(graph_module: fx.GraphModule) -> list[fx.Node]:
        """Returns the LayerNorms that ``FoldLayerNorm`` will fold; notes the others with the reason."""
        found, declined = foldable_layer_norms(graph_module)
        earlier = [near for near in facts_of(graph_module).declined if near not in declined]
        update_facts(graph_module, declined=(*earlier, *declined))
        return list(found)


def fitted_by_product(graph_module: fx.GraphModule) -> list[fx.Node]:
    """Returns the matmuls whose first factor is fitted by the error of the product."""
    return [
        node
        for node, _, operand in planned_operands(graph_module)
        if operand.index == 0 and operand.spec is not None and operand.spec.criterion == FitCriterion.OUTPUT
    ]


def merge_histograms(observers: Sequence[HistogramObserver], processes: Processes) -> None:
    """Merges each observer with its counterparts in the other processes."""
    for rank, twins in enumerate(processes.gather(observers)):
        if rank != processes.rank:
            for observer, twin in zip(observers, twins, strict=True):
                observer.merge(twin)


def merge_products(observers: Sequence[ProductObserver], processes: Processes) -> None:
    """Gives each observer the samples that a single process would keep from all batches."""
    if processes.size > 1:
        for observer in observers:  # one message each, since a message is held in memory
            observer.merge(processes.gather(observer.pairs))


def listen(listener: Listener, batches: Sequence[ModelInputs], label: str, *, show_progress: bool) -> None:
    """Runs every batch through a listener."""
    with torch.no_grad():
        for batch in track(batches, label, show=show_progress):
            listener.run(*flat_inputs(listener.graph_module, *batch))


class Listener(TidyInterpreter):
    """Runs a graph and passes node outputs and product factors to observers.

    Args:
        graph_module: The graph to run.
        tensors: Observers of outputs, by node.
        products: Observers of the first two arguments, by node.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        tensors: Sequence[dict[fx.Node, HistogramObserver]],
        products: dict[fx.Node, ProductObserver],
    ) -> None:
        super().__init__(graph_module)
        self.graph_module, self._tensors, self._products = graph_module, tensors, products

    def run_node(self, n: fx.Node) -> Any:
        """Runs one node and updates its observers."""
        result = super().run_node(n)
        if isinstance(result, Tensor):
            for observers in self._tensors:
                if n in observers:
                    observers[n].update(result)
        if n in self._products:
            (a, b, *_), _ = self.fetch_args_kwargs_from_env(n)
            self._products[n].update(a, b)
        return result
