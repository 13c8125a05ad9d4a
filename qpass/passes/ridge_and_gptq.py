"""fitted -> fitted: adjusts weights and biases to compensate the quantization of inputs and weights.

Papers: ERQ (https://arxiv.org/abs/2407.06794), GPTQ (https://arxiv.org/abs/2210.17323),
GPTAQ (https://arxiv.org/abs/2504.02692).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from qpass.data import ModelInputs
from qpass.graph.edit import called_module, input_node
from qpass.graph.facts import facts_of, update_facts
from qpass.nn import QuantizedConv, QuantizedLayer, ResidualFactor
from qpass.passes.analysis.layer_data import InputSums, LayerData
from qpass.passes.analysis.reference import Reference
from qpass.passes.analysis.side_by_side import SideBySide
from qpass.passes.analysis.token_weights import token_weights
from qpass.passes.base import Pass
from qpass.progress import track
from qpass.quantizers import Quantizer, Uniform, WeightCodebook
from qpass.runtime.distributed import ALONE, Processes
from qpass.runtime.storage import Storage
from qpass.solvers.gptq import gptq
from qpass.solvers.ridge import absorb_input_error
from qpass.solvers.round_to_codebook import refine_codebook

#: Candidates for GPTAQ's α: how far a layer follows the float network's inputs.
DRIFT_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


class RidgeAndGPTQ(Pass):
    """Compensates layers in order, on the outputs of earlier ones; biases absorb the remaining mean error.

    With ``activations``, a layer's weight compensates the quantization of its own input (ERQ). Of
    ``RIDGES``, it takes the λ that is best for its output on every fourth batch, which is held out.
    Errors that earlier layers left in that input are not corrected: correcting them shrinks the output,
    and the shrinkage compounds.

    With ``rounding``, weights are chosen so that round-to-nearest is best for the layer's output
    (GPTQ). Without ``activations``, they also follow the float network's inputs (GPTAQ), by the best of
    ``DRIFT_SHARES`` on the held-out batches. A codebook is first fitted with the Gram matrix's
    diagonal as weights; then its levels and codes are refined in turn, if that is better on the
    held-out batches.

    Args:
        batches: Model inputs; if empty, the graph stays unchanged.
        activations: Compensate the quantization of inputs.
        rounding: Compensate the rounding of weights.
        reference: The float network; None uses the graph with its quantizers disabled.
        hessian: Weight each token of a layer's output by its effect on the network's output.
        seed: Random seed of the signs that probe the output for that.
        storage: Where values are kept between nodes; None keeps them in memory.
        processes: Processes that share the batches; sums are over all of them.
        show_progress: Show a progress bar.
    """

    takes, gives = "fitted", "fitted"

    def __init__(
        self,
        batches: Sequence[ModelInputs],
        *,
        activations: bool,
        rounding: bool,
        reference: Reference | None = None,
        hessian: bool = False,
        seed: int = 0,
        storage: Storage | None = None,
        processes: Processes = ALONE,
        show_progress: bool = False,
    ) -> None:
        self.batches, self.activations, self.rounding = batches, activations, rounding
        self.reference = Reference() if reference is None else reference
        self.hessian, self.seed = hessian, seed
        self.storage, self.processes, self.show_progress = storage, processes, show_progress

    def run(self, graph_module: fx.GraphModule) -> bool:
        """See ``Pass.run``."""
        if not self.batches or facts_of(graph_module).compensated:
            return False
        update_facts(graph_module, compensated=True)
        wanted = {
            node: _unquantized(graph_module, node.args[0]) for node in graph_module.graph.nodes if _layer(graph_module, node)
        }
        batches = self.processes.share(self.batches)
        runs = SideBySide(graph_module, batches, also_read=wanted, storage=self.storage)
        reference = self.reference.beside(graph_module)
        floats = SideBySide(reference, batches, storage=self.storage)
        nodes = list(zip(graph_module.graph.nodes, reference.graph.nodes, strict=True))[:-1]
        weigh = [twin for node, twin in nodes if node in wanted] if self.hessian else []
        weights = token_weights(reference, weigh, batches, seed=self.seed, storage=self.storage, processes=self.processes)
        with torch.no_grad():
            for node, twin in track(nodes, "compensate", show=self.show_progress):
                layer = _layer(graph_module, node)
                if layer is not None:
                    own = runs.values(wanted[node]) if self.activations else floats.values(twin.args[0])
                    self._compensate_groups(layer, runs.values(node.args[0]), own, weights.get(twin))
                runs.step(node)
                if not self.activations:
                    floats.step(twin)
        return True

    def _compensate_groups(
        self, layer: QuantizedLayer, inputs: Sequence[Tensor], wanted: Sequence[Tensor], weights: Sequence[Tensor] | None
    ) -> None:
        """Compensates a layer; each group of a grouped convolution is a layer with inputs of its own."""
        groups = layer.groups if isinstance(layer, QuantizedConv) else 1
        if not isinstance(layer, QuantizedConv) or groups == 1:
            self._compensate(layer, LayerData(layer, inputs, wanted, weights, self.processes))
            return
        outputs, channels = len(layer.effective_weight()) // groups, layer.weight_shape[1]
        for index in range(groups):
            own, read = slice(index * outputs, (index + 1) * outputs), slice(index * channels, (index + 1) * channels)
            group = layer.group(own)
            ins, outs = ([values[:, read] for values in each] for each in (inputs, wanted))
            self._compensate(group, LayerData(group, ins, outs, weights, self.processes))
            layer.put_group(own, group)

    def _compensate(self, layer: QuantizedLayer, data: LayerData) -> None:
        stored = layer.effective_weight()
        weight = stored.flatten(1).double()
        sums = data.sums()
        follows = bool(sums.drift.any())
        target = weight
        if self.activations and follows:
            target = data.nearest(absorb_input_error(weight, sums.gram, sums.drift), weight)
        target = target.to(stored.dtype)
        if isinstance(layer.quantizer, WeightCodebook):
            _fit(layer.quantizer, target, sums.gram.diagonal() if self.rounding else None, self.processes)
        if self.rounding and layer.quantizer is not None:
            assert isinstance(layer.quantizer, Uniform | WeightCodebook), "weights have no other quantizer"
            shares = DRIFT_SHARES if follows and not self.activations else (0.0,)
            target = _feed_back(layer, layer.quantizer, target, data, sums, shares, self.processes)
        rounded = (target if layer.quantizer is None else layer.quantizer(target)).double()
        if layer.bias is not None:
            layer.bias.add_((sums.wanted_mean @ weight.T - sums.mean @ rounded.T).to(layer.bias.dtype))
        stored.copy_(target.reshape(stored.shape))


def _fit(codebook: WeightCodebook, weight: Tensor, cost: Tensor | None, processes: Processes) -> None:
    """Fits a codebook; each process fits the tables of its part of the rows."""
    count = len(weight)
    own = WeightCodebook(**codebook.config).fit(weight[processes.part(count, _rows_of_a_table(codebook, count))], cost)
    _join_tables(codebook, own, count, processes)


def _join_tables(codebook: WeightCodebook, own: WeightCodebook, count: int, processes: Processes) -> None:
    """Gives a codebook the tables and scales of all processes, whose parts have ``count`` rows together."""
    codebook.table = processes.join(own.table, -(-count // _rows_of_a_table(codebook, count)))
    codebook.scale = processes.join(own.scale, count)


def _feed_back(
    layer: QuantizedLayer,
    quantizer: Uniform | WeightCodebook,
    weight: Tensor,
    data: LayerData,
    sums: InputSums,
    shares: Sequence[float],
    processes: Processes,
) -> Tensor:
    """Returns a weight whose nearest levels are best for the output; may refine the layer's codebook.

    Rows are rounded independently: each process rounds its part of them.

    Args:
        layer: The layer.
        quantizer: The quantizer of its weight.
        weight: The weight that is wanted: (out, in).
        data: Inputs of the layer.
        sums: Their sums.
        shares: Candidates for GPTAQ's α.
        processes: Processes that share the rows.
    """
    wanted, count = layer.effective_weight().flatten(1).double(), len(weight)
    part = processes.part(count, _rows_of_a_table(quantizer, count))
    own = quantizer.rows(part)
    candidates = processes.join(gptq(weight[part], own, sums.gram, sums.drift, shares=shares), count, dim=1)
    errors = data.errors([quantizer(candidate) for candidate in candidates], wanted)
    best = errors.index(min(errors))
    if isinstance(quantizer, WeightCodebook) and isinstance(own, WeightCodebook):
        better, refined = refine_codebook(weight[part], candidates[best][part], own, sums.gram, shares[best] * sums.drift)
        if data.errors([processes.join(better(refined), count)], wanted)[0] < errors[best]:
            _join_tables(quantizer, better, count, processes)
            return processes.join(refined, count)
    return candidates[best]


def _rows_of_a_table(quantizer: Quantizer, count: int) -> int:
    return (quantizer.channels or count) if isinstance(quantizer, WeightCodebook) else 1


def _layer(graph_module: fx.GraphModule, node: fx.Node) -> QuantizedLayer | None:
    """Returns the layer that a node calls, or None; residual factors are none.

    Neither are grouped convolutions whose groups share a table of levels.
    """
    layer = called_module(graph_module, node)
    if isinstance(layer, ResidualFactor) or not isinstance(layer, QuantizedLayer):
        return None
    shares = isinstance(layer.quantizer, WeightCodebook) and layer.quantizer.channels != 1
    return None if shares and isinstance(layer, QuantizedConv) and layer.groups > 1 else layer


def _unquantized(graph_module: fx.GraphModule, operand: fx.Node) -> fx.Node:
    """Returns an operand before its quantizer, or the operand itself if it has none."""
    return input_node(operand, 0) if isinstance(called_module(graph_module, operand), Quantizer) else operand
