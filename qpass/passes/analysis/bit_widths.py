"""Candidate bit widths of tensors and weights, with fitted quantizers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import fx

from qpass.config import QuantSpec
from qpass.config.budget import BudgetConfig
from qpass.config.options import QuantizerName
from qpass.graph.edit import KEPT_ROWS, called_module, get_plan, input_node, set_plan, shape_of
from qpass.graph.facts import recipe_of
from qpass.nn import QuantizedLayer
from qpass.passes.analysis.fitted import channel_quantizer, tensor_quantizer, weight_quantizer
from qpass.passes.analysis.sources import planned_operands, quantizer_node
from qpass.passes.analysis.statistics import Statistics
from qpass.passes.annotate import source_of
from qpass.passes.fold_layer_norm import channel_wise_norms
from qpass.passes.plan import LayerPlan
from qpass.quantizers import Quantizer

#: Returns the candidate specs of a tensor by bit width, given its role and its planned spec; none
#: to keep what is planned.
Candidates = Callable[[str, QuantSpec], Mapping[int, QuantSpec]]

#: Bytes per node of a file beyond its tensors: names, attributes, and constants of its own.
_BYTES_A_NODE = 500
#: Stored bits per value, where they differ from the bit width: 16 bits hold five 3-bit or three
#: 5-bit codes, and a 7-bit code is stored as 4 and 3 bits.
_STORED_BITS = {3: 3.2, 5: 16 / 3, 7: 7.2}


@dataclass(frozen=True)
class BitWidthOptions:
    """Candidate bit widths of one quantizer of the graph or of one quantized weight.

    Attributes:
        kind: ``"activation"`` or ``"weight"``.
        target: Path of the quantizer module, or of the layer.
        nodes: The calls of that module.
        readers: The layers that read it, each with the operand's position. A weight has its own layer,
            with None.
        spec: The planned spec.
        size: Multiply-adds that read it in the traced example, or values of the weight.
        open: Whether there are candidates; if not, the only option is the current one.
        fits: The fitted quantizer for each bit width.
    """

    kind: str
    target: str
    nodes: tuple[fx.Node, ...]
    readers: tuple[tuple[fx.Node, int | None], ...]
    spec: QuantSpec
    size: int
    open: bool
    fits: Mapping[int, Quantizer]

    @property
    def path(self) -> str:
        """Module path of the first layer that reads it."""
        path: str = get_plan(self.readers[0][0]).path
        return path

    def costs(self, total: int) -> dict[str, list[float]]:
        """Returns the cost of each option, by limit.

        A bit width counts as its share of a mean over sizes that sum to ``total``; a file size is in
        10^6 bytes.
        """
        costs = {}
        if self.open:
            costs[f"{self.kind}_bits"] = [self.size * bits / total for bits in self.fits]
        if self.kind == "weight":
            costs["file_mb"] = [self.size * stored_bits(bits) / 8e6 for bits in self.fits]
        return costs

    def choose(self, graph_module: fx.GraphModule, bits: int) -> None:
        """Applies one option to the graph and its plans."""
        if not self.open:
            return
        spec = dataclasses.replace(self.spec, bits=bits)
        if self.kind == "weight":
            graph_module.get_submodule(self.target).quantizer = self.fits[bits]
        else:
            graph_module.set_submodule(self.target, self.fits[bits])
        for node, index in self.readers:
            plan = get_plan(node)
            if index is None:
                set_plan(node, dataclasses.replace(plan, weight=spec))
            else:
                operands = (dataclasses.replace(o, spec=spec) if o.index == index else o for o in plan.operands)
                set_plan(node, dataclasses.replace(plan, operands=tuple(operands)))


def stored_bits(bits: int) -> float:
    """Returns the bits of a file that a code of a weight takes."""
    return _STORED_BITS.get(bits, bits)


def bit_width_options(graph_module: fx.GraphModule, statistics: Statistics, candidates: Candidates) -> list[BitWidthOptions]:
    """Returns all activations and then all weights, in order of execution.

    Args:
        graph_module: A quantized graph.
        statistics: Calibration statistics of its tensors.
        candidates: The specs to try. The network's input keeps what is planned.
    """
    return [*_activations(graph_module, statistics, candidates), *_weights(graph_module, candidates)]


def budget_candidates(graph_module: fx.GraphModule, budget: BudgetConfig) -> Candidates:
    """Returns the candidates among which a budget decides.

    These are the bit widths of what has the recipe's usual bit width, in equal steps.
    """
    recipe = recipe_of(graph_module)
    weights = budget.weight_widths if budget.weight_bits is not None or budget.file_mb is not None else ()
    activations = budget.activation_widths if budget.activation_bits is not None else ()

    def candidates(role: str, spec: QuantSpec) -> dict[int, QuantSpec]:
        widths, usual = (weights, recipe.weight) if role == "weight" else (activations, recipe.activation)
        if spec.bits != usual.bits or spec.quantizer != QuantizerName.UNIFORM:
            return {}
        return {bits: dataclasses.replace(spec, bits=bits) for bits in widths}

    return candidates


def megabytes_beside_weights(graph_module: fx.GraphModule) -> float:
    """Estimates a file's 10^6 bytes beside the codes of quantized weights, erring on the high side."""
    layers = [module for module in graph_module.modules() if isinstance(module, QuantizedLayer)]
    weights = {id(layer.weight) for layer in layers if layer.quantizer is not None}
    constants = [*graph_module.parameters(), *graph_module.buffers()]
    beside = sum(constant.numel() * constant.element_size() for constant in constants if id(constant) not in weights)
    return (beside + _BYTES_A_NODE * len(graph_module.graph.nodes)) / 1e6


def _activations(graph_module: fx.GraphModule, statistics: Statistics, candidates: Candidates) -> Iterator[BitWidthOptions]:
    groups: dict[str, list[tuple[fx.Node, fx.Node, int]]] = {}
    specs: dict[str, tuple[QuantSpec, bool, str]] = {}
    for reader, _, operand in planned_operands(graph_module):
        node = quantizer_node(reader.args[operand.index])
        groups.setdefault(str(node.target), []).append((node, reader, operand.index))
        assert operand.spec is not None
        specs[str(node.target)] = operand.spec, operand.signed, operand.role
    norms = {str(quantizers[0].target): norm for norm, quantizers in channel_wise_norms(graph_module).items()}
    for target, readers in groups.items():
        (spec, signed, role), point = specs[target], input_node(readers[0][0], 0)
        tried = {} if source_of(point).op == "placeholder" else candidates(role, spec)
        fitted = graph_module.get_submodule(target)
        assert isinstance(fitted, Quantizer)
        fits = {} if tried else {spec.bits: fitted}
        for bits, wanted in tried.items():
            if target in norms:
                fits[bits] = channel_quantizer(graph_module, statistics, norms[target], wanted)
            else:
                fits[bits] = tensor_quantizer(graph_module, statistics, point, wanted, signed)
        yield BitWidthOptions(
            kind="activation",
            target=target,
            nodes=tuple(dict.fromkeys(node for node, _, _ in readers)),
            readers=tuple((reader, index) for _, reader, index in readers),
            spec=spec,
            size=sum(multiply_adds(graph_module, reader) for _, reader, _ in readers),
            open=bool(tried),
            fits=fits,
        )


def _weights(graph_module: fx.GraphModule, candidates: Candidates) -> Iterator[BitWidthOptions]:
    for node in graph_module.graph.nodes:
        layer, plan = _layer(graph_module, node), get_plan(node)
        if layer is None or layer.quantizer is None or not isinstance(plan, LayerPlan) or plan.weight is None:
            continue
        weight = layer.effective_weight().detach()
        tried = candidates("weight", plan.weight)
        fits = {} if tried else {plan.weight.bits: layer.quantizer}
        for bits, wanted in tried.items():
            fits[bits] = weight_quantizer(weight, wanted)
        yield BitWidthOptions(
            kind="weight",
            target=str(node.target),
            nodes=(node,),
            readers=((node, None),),
            spec=plan.weight,
            size=weight.numel(),
            open=bool(tried),
            fits=fits,
        )


def _layer(graph_module: fx.GraphModule, node: fx.Node) -> QuantizedLayer | None:
    module = called_module(graph_module, node)
    return module if isinstance(module, QuantizedLayer) else None


def multiply_adds(graph_module: fx.GraphModule, reader: fx.Node) -> int:
    """Returns the multiply-adds of one layer of the given model for the traced example.

    Rows that ``NarrowRows`` leaves out count, so that a mean of bit widths is one over the model.
    """
    layer = _layer(graph_module, reader)
    inner = (shape_of(reader.args[0]) or (1,))[-1] if layer is None else layer.weight_shape[1:].numel()
    _, _, kept, rows = reader.meta.get(KEPT_ROWS, (0, 0, 1, 1))
    return torch.Size(shape_of(reader) or (1,)).numel() // kept * rows * inner
