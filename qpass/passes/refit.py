"""quantized -> fitted: refits activation quantizers in order, on the quantized network's own values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from qpass.data import ModelInputs
from qpass.graph.edit import TRANSPOSES, called_module, describe, device_of, input_node, is_call, shape_of
from qpass.observers import HistogramObserver, ProductObserver
from qpass.passes.analysis.fitted import fit_again
from qpass.passes.analysis.side_by_side import SideBySide
from qpass.passes.analysis.sources import quantizer_node
from qpass.passes.analysis.statistics import Statistics
from qpass.passes.base import Pass
from qpass.passes.calibrate import CHANNEL_BINS, fitted_by_product, merge_histograms, merge_products
from qpass.passes.fold_layer_norm import channel_wise_norms
from qpass.progress import track
from qpass.quantizers import Criterion, Quantizer
from qpass.runtime.distributed import ALONE, Processes
from qpass.runtime.storage import Storage


class RefitQuantizers(Pass):
    """Runs all batches in lockstep, node by node, and refits each quantizer when they reach it.

    Each quantizer is thus fitted on the outputs of the quantizers before it, as RepQ-ViT's published
    code initializes them. LayerNorm outputs are fitted per channel. Quantizers first fitted by the
    error of a product are refitted by it. Values live between two nodes are kept for all batches.

    Args:
        batches: Model inputs; if empty, the graph stays unchanged.
        statistics: Calibration statistics; cleared, since nothing needs them afterwards.
        storage: Where values are kept between nodes; None keeps them in memory.
        processes: Processes that share the batches; the fit equals that of a single process.
        show_progress: Show a progress bar.
    """

    takes, gives = "quantized", "fitted"

    def __init__(
        self,
        batches: Sequence[ModelInputs],
        statistics: Statistics,
        *,
        storage: Storage | None = None,
        processes: Processes = ALONE,
        show_progress: bool = False,
    ) -> None:
        self.batches, self.statistics, self.storage = batches, statistics, storage
        self.processes, self.show_progress = processes, show_progress

    def run(self, graph_module: fx.GraphModule) -> bool:
        """See ``Pass.run``."""
        self.statistics.clear()  # no later pass fits to them
        if not self.batches:
            return False
        products = {quantizer_node(matmul.args[0]): matmul for matmul in fitted_by_product(graph_module)}
        channel_wise = channel_wise_norms(graph_module)
        changed = False
        runs = SideBySide(graph_module, self.processes.share(self.batches), storage=self.storage)
        with torch.no_grad():
            for node in track(_order(graph_module, products), "refit", show=self.show_progress):
                module = called_module(graph_module, node)
                if isinstance(module, Quantizer) and getattr(module, "axis", None) is None:
                    criterion = self._criterion(runs, node, products[node]) if node in products else None
                    changed |= _fit(module, self._observe(runs, input_node(node, 0)), criterion)
                runs.step(node)
                if node in channel_wise:
                    fitted = graph_module.get_submodule(str(channel_wise[node][0].target))
                    assert isinstance(fitted, Quantizer)
                    changed |= _fit(fitted, self._observe(runs, node, channel_axis=-1, bins=CHANNEL_BINS))
        return changed

    def _observe(self, runs: SideBySide, node: fx.Node, **options: Any) -> HistogramObserver:
        observer = HistogramObserver(describe(node), **options)
        for value in runs.values(node):
            observer.update(value)
        merge_histograms([observer], self.processes)
        return observer

    def _criterion(self, runs: SideBySide, quantizer: fx.Node, matmul: fx.Node) -> Criterion:
        """Returns the error of the product of the quantizer's input and the other, quantized factor."""
        observer = ProductObserver(describe(matmul), storage=self.storage)
        for a, b in zip(runs.values(quantizer.args[0]), runs.values(matmul.args[1]), strict=True):
            observer.update(_transposed(a, quantizer, input_node(matmul, 0)), b)
        merge_products([observer], self.processes)
        return observer.criterion()


def _fit(quantizer: Quantizer, observer: HistogramObserver, criterion: Criterion | None = None) -> bool:
    """Fits a quantizer on the CPU, where observers keep their data; returns whether it changed."""
    device = device_of(quantizer)
    return fit_again(quantizer, lambda each: each.cpu().fit(*observer.samples(), criterion=criterion).to(device))


def _transposed(value: Tensor, quantizer: fx.Node, operand: fx.Node) -> Tensor:
    """Returns an input of the quantizer with its last dims in the order of the matmul's operand."""
    moves = []
    while operand is not quantizer:
        moves.append(operand)
        operand = input_node(operand, 0)
    for node in reversed(moves):  # other movements merge or repeat leading dims, which the observer merges too
        if is_call(node, *TRANSPOSES) and len(shape_of(node.args[0]) or ()) == value.dim():
            move: Any = node.target
            value = move(value, *node.args[1:])
    return value


def _order(graph_module: fx.GraphModule, products: dict[fx.Node, fx.Node]) -> list[fx.Node]:
    """Returns all nodes but the output, with a matmul's second factor before its first is fitted."""
    order: dict[fx.Node, None] = {}

    def visit(node: fx.Node) -> None:
        if node in order:
            return
        for read in [*node.all_input_nodes, *(products[node].args[1:2] if node in products else ())]:
            assert isinstance(read, fx.Node)
            visit(read)
        order[node] = None

    for node in list(graph_module.graph.nodes)[:-1]:
        visit(node)
    return list(order)
