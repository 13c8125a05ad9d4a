"""quantized -> quantized: gives every tensor and every weight its width, so that together they keep a budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from qpass.allocation import Options, allocate, least_cost
from qpass.budget_config import LIMITS, BudgetConfig
from qpass.config import QuantSpec
from qpass.data import ModelInputs
from qpass.data.batches import split_rows
from qpass.errors import ConfigError
from qpass.graph import info, set_plan, shape_of
from qpass.nn import QuantizedConv2d, QuantizedLayer
from qpass.passes.annotate import source_of
from qpass.passes.base import Pass
from qpass.passes.fitted import channel_quantizer, tensor_quantizer, weight_quantizer
from qpass.passes.fold_layer_norm import channel_wise_norms
from qpass.passes.plan import LayerPlan, OperandPlan
from qpass.passes.reference import float_reference
from qpass.passes.sensitivity import NodeError, output_errors
from qpass.passes.sources import planned_operands, quantizer_node
from qpass.quantizers import Quantizer

#: Samples of one run: what a derivative needs of all tensors is in memory at once.
_ROWS = 4
#: Bytes of a node of a file beyond its tensors: names, attributes, and the constants that it shares with none.
_BYTES_A_NODE = 500
#: Bits of a value in a file where its code has others: five codes of 3 bits share 16, three of 5 bits do, and 7 are 4 and 3.
_STORED_BITS = {3: 3.2, 5: 16 / 3, 7: 7.2}


@dataclass(frozen=True)
class Allocated:
    """What a budget gave one tensor or weight.

    Attributes:
        path: Module path of the first layer that reads it.
        kind: ``"activation"`` or ``"weight"``.
        bits: The width that it got.
        size: Multiply-adds that read it (activations), or values (weights), of the example that was traced.
        errors: By width, the share of the squared output that quantizing it alone adds, to first order.
    """

    path: str
    kind: str
    bits: int
    size: int
    errors: Mapping[int, float]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Allocated:
        """Reads what ``dataclasses.asdict`` gave, JSON's text keys included."""
        return cls(**{**data, "errors": {int(bits): error for bits, error in data["errors"].items()}})


@dataclass(frozen=True)
class _Tensor:
    """One quantizer of the graph, or one quantized weight, who reads it, and whether its width is open."""

    name: str
    node: fx.Node
    spec: QuantSpec
    readers: tuple[tuple[fx.Node, LayerPlan, OperandPlan | None], ...]
    size: int
    open: bool
    fits: Mapping[int, Quantizer]

    @property
    def kind(self) -> str:
        return "weight" if self.readers[0][2] is None else "activation"


class AllocateBits(Pass):
    """Measures what each candidate width of each tensor does to the output, alone and to first order, and chooses among all.

    The widths of the least sum within the limits come from a 0-1 linear program. The network's input keeps its width, and so
    does what the recipe gives another width than ``activation`` or ``weight``, by a rule or by its role; the means are over the
    others.

    Args:
        budget: The limits; None leaves everything as it is.
        batches: Calls of the model.
        show_progress: Show a bar.
    """

    takes, gives = "quantized", "quantized"

    def __init__(self, budget: BudgetConfig | None, batches: Sequence[ModelInputs], *, show_progress: bool = False) -> None:
        self.budget, self.batches, self.show_progress = budget, batches, show_progress

    def run(self, graph_module: fx.GraphModule) -> bool:
        """See ``Pass.run``.

        Raises:
            ConfigError: If no choice of widths keeps a limit.
        """
        if self.budget is None or "allocation" in info(graph_module):
            return False
        tensors = [*_activations(graph_module, self.budget), *_weights(graph_module, self.budget)]
        limits = {name: value for name in LIMITS if (value := getattr(self.budget, name)) is not None}
        errors = self._errors(graph_module, tensors)
        totals = {kind: sum(t.size for t in tensors if t.kind == kind and t.open) for kind in ("activation", "weight")}
        options = [
            Options(list(of.values()), _costs(tensor, totals[tensor.kind])) for tensor, of in zip(tensors, errors, strict=True)
        ]
        beside = Options([0.0], {"file_mb": [_bytes_beside_weights(graph_module, tensors) / 1e6]})
        for name, limit in limits.items():
            if (least := least_cost([*options, beside], name)) > limit:
                raise ConfigError(
                    f"got {limit}",
                    where=f"budget.{name}",
                    expected=f"at least {least:.3g} with these widths",
                    hint="raise the limit or allow lesser widths",
                )
        *chosen, _ = allocate([*options, beside], limits)
        rows = []
        for tensor, of, index in zip(tensors, errors, chosen, strict=True):
            bits = list(of)[index]
            _give(graph_module, tensor, bits)
            rows.append(Allocated(tensor.readers[0][1].path, tensor.kind, bits, tensor.size, of))
        info(graph_module)["allocation"] = tuple(rows)
        return True

    def _errors(self, graph_module: fx.GraphModule, tensors: Sequence[_Tensor]) -> list[dict[int, float]]:
        assert self.budget is not None
        reference = float_reference(graph_module)
        twins = dict(zip(graph_module.graph.nodes, reference.graph.nodes, strict=True))
        nodes = {twins[tensor.node]: [_error_of(reference, tensor, fit) for fit in tensor.fits.values()] for tensor in tensors}
        rows = [part for batch in self.batches for part in split_rows(batch, _ROWS)]
        wanted = -(-self.budget.samples // _ROWS)
        spread = [rows[index * len(rows) // wanted] for index in range(wanted)] if wanted < len(rows) else rows
        found = output_errors(reference, nodes, spread, show_progress=self.show_progress)
        return [dict(zip(tensor.fits, found[twins[tensor.node]], strict=True)) for tensor in tensors]


def _activations(graph_module: fx.GraphModule, budget: BudgetConfig) -> Iterator[_Tensor]:
    groups: dict[str, list[tuple[fx.Node, LayerPlan, OperandPlan]]] = {}
    nodes: dict[str, fx.Node] = {}
    for reader, plan, operand in planned_operands(graph_module):
        node = quantizer_node(reader.args[operand.index])
        groups.setdefault(str(node.target), []).append((reader, plan, operand))
        nodes.setdefault(str(node.target), node)
    norms = {str(quantizers[0].target): norm for norm, quantizers in channel_wise_norms(graph_module).items()}
    usual = info(graph_module)["config"].activation.bits
    for name, readers in groups.items():
        _, _, operand = readers[0]
        spec, node = operand.spec, nodes[name]
        assert spec is not None
        is_open = budget.activation_bits is not None and spec.bits == usual and spec.quantizer == "uniform"
        is_open = is_open and source_of(node.args[0]).op != "placeholder"
        fits: dict[int, Quantizer] = {}
        for bits in budget.activation_widths if is_open else [spec.bits]:
            wanted = dataclasses.replace(spec, bits=bits)
            if name in norms:
                fits[bits] = channel_quantizer(graph_module, norms[name], wanted)
            else:
                fits[bits] = tensor_quantizer(graph_module, node.args[0], wanted, operand.signed)
        size = sum(_multiply_adds(reader) for reader, _, _ in readers)
        yield _Tensor(name, node, spec, tuple(readers), size, is_open, fits)


def _weights(graph_module: fx.GraphModule, budget: BudgetConfig) -> Iterator[_Tensor]:
    decided = budget.weight_bits is not None or budget.file_mb is not None
    usual = info(graph_module)["config"].weight.bits
    for node in graph_module.graph.nodes:
        layer = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
        plan = node.meta.get("qpass")
        if isinstance(layer, QuantizedLayer) and layer.quantizer is not None and isinstance(plan, LayerPlan):
            assert plan.weight is not None
            weight = layer.effective_weight().detach()
            is_open = decided and plan.weight.bits == usual
            widths = budget.weight_widths if is_open else [plan.weight.bits]
            fits = {bits: weight_quantizer(weight, dataclasses.replace(plan.weight, bits=bits)) for bits in widths}
            yield _Tensor(str(node.target), node, plan.weight, ((node, plan, None),), weight.numel(), is_open, fits)


def _multiply_adds(reader: fx.Node) -> int:
    output, (first, *_) = shape_of(reader), reader.args
    inner = (shape_of(first) or (1,))[-1]
    return int(torch.Size(output or (1,)).numel()) * inner


def _costs(tensor: _Tensor, total: int) -> dict[str, list[float]]:
    """Returns what each width adds to the mean over the tensors whose width is open, and to the file in 10^6 bytes."""
    costs = {}
    if tensor.open:
        costs[f"{tensor.kind}_bits"] = [tensor.size * width / total for width in tensor.fits]
    if tensor.kind == "weight":
        costs["file_mb"] = [tensor.size * _STORED_BITS.get(width, width) / 8e6 for width in tensor.fits]
    return costs


def _bytes_beside_weights(graph_module: fx.GraphModule, tensors: Sequence[_Tensor]) -> int:
    """Returns about what a file holds beside the codes of quantized weights."""
    weights = {id(graph_module.get_submodule(tensor.name).weight) for tensor in tensors if tensor.kind == "weight"}
    constants = [*graph_module.parameters(), *graph_module.buffers()]
    beside = sum(constant.numel() * constant.element_size() for constant in constants if id(constant) not in weights)
    return beside + _BYTES_A_NODE * len(graph_module.graph.nodes)


def _error_of(reference: fx.GraphModule, tensor: _Tensor, fit: Quantizer) -> NodeError:
    layer = reference.get_submodule(tensor.name)
    if not isinstance(layer, QuantizedLayer):
        return lambda x: fit(x) - x
    weight = layer.effective_weight().detach()
    error = fit(weight) - weight

    def product(x: Tensor) -> Tensor:
        return F.conv2d(x, error, stride=layer.patch) if isinstance(layer, QuantizedConv2d) else F.linear(x, error)

    return product


def _give(graph_module: fx.GraphModule, tensor: _Tensor, bits: int) -> None:
    spec = dataclasses.replace(tensor.spec, bits=bits)
    if tensor.kind == "weight":
        node, plan, _ = tensor.readers[0]
        graph_module.get_submodule(tensor.name).quantizer = tensor.fits[bits]
        set_plan(node, dataclasses.replace(plan, weight=spec))
        return
    graph_module.set_submodule(tensor.name, tensor.fits[bits])
    for node, _, operand in tensor.readers:
        plan = node.meta["qpass"]  # as it is now: both factors of a product may change
        assert operand is not None
        operands = (dataclasses.replace(o, spec=spec) if o.index == operand.index else o for o in plan.operands)
        set_plan(node, dataclasses.replace(plan, operands=tuple(operands)))
