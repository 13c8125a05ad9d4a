"""Compares a quantized graph with the float graph it came from, node by node."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx

from qpass.data import ModelInputs
from qpass.data.rows import batch_size
from qpass.graph.edit import called_module, flat_inputs, get_plan, input_node, module_path
from qpass.graph.facts import facts_of, recipe_of
from qpass.graph.fill_values import fill_values
from qpass.graph.fills import filled_outputs
from qpass.graph.signature.input_dims import layout_of
from qpass.nn import QuantizedLayer
from qpass.passes.add_residual import sum_with_residual
from qpass.passes.analysis.bit_widths import multiply_adds
from qpass.passes.analysis.blocks import find_blocks
from qpass.passes.analysis.sources import planned_operands, planned_outputs, quantizer_node
from qpass.passes.annotate import source_of
from qpass.passes.plan import Declined, LayerPlan
from qpass.quantizers import ByteTable, Quantizer, Uniform
from qpass.report.data import BlockRow, LayerRow, TensorRow
from qpass.report.losses import with_output_errors
from qpass.report.model import QuantReport
from qpass.report.names import layer_parts, tensor_parts
from qpass.report.preview import input_preview
from qpass.runtime.free_memory import TidyInterpreter
from qpass.runtime.storage import SpilledTensor, Storage

#: Bins of the histograms in the report.
HISTOGRAM_BINS = 60
#: Values compared at a time.
_AT_A_TIME = 2**20


def collect_report(
    reference_graph: fx.GraphModule, quantized: fx.GraphModule, sample: ModelInputs, storage: Storage | None = None
) -> QuantReport:
    """Runs both graphs on the sample and returns the report.

    Args:
        reference_graph: The same graph in float: see ``float_reference``.
        quantized: The frozen graph.
        sample: Calibration inputs to measure errors on.
        storage: Where to keep float values until their quantized counterparts are computed; None keeps
            them in memory.
    """
    blocks = find_blocks(quantized)
    plans = {node: plan for node in quantized.graph.nodes if isinstance(plan := get_plan(node), LayerPlan)}
    outputs, parts = {node: sum_with_residual(quantized, node) for node in plans}, layer_parts(quantized)
    pairs = [(node.name, outputs[node].name) for node in plans] + [(node.name, node.name) for node in blocks.values()]
    with torch.no_grad():
        reads = Counter(name for name, _ in dict.fromkeys(pairs))
        reference = _Reference(reference_graph, reads, sample, Storage() if storage is None else storage)
        actual = _Comparer(quantized, pairs, reference, _multiply_adds_by_call(quantized))
        output = actual.run(*flat_inputs(quantized, *sample))
        expected = reference.output()
    stayed_float = {node.name: plan for node in quantized.graph.nodes if isinstance(plan := get_plan(node), Declined)}
    layers = [
        LayerRow(
            path=plan.path,
            kind=plan.kind,
            weight_bits=None if plan.weight is None else plan.weight.bits,
            input_bits=tuple(None if operand.spec is None else operand.spec.bits for operand in plan.operands),
            sqnr_db=actual.sqnr[node.name, outputs[node].name],
            residual_rank=0 if outputs[node] is node or plan.weight is None else plan.weight.residual_rank,
            reason=plan.reason,
            part=parts[node],
        )
        for node, plan in plans.items()
    ]
    return QuantReport(
        model=type(quantized).__name__,
        config=recipe_of(quantized).to_dict(),
        dynamic_batch=facts_of(quantized).dynamic_batch,
        samples=batch_size(sample, layout_of(quantized)),
        tensors=with_output_errors(
            (*actual.rows, *_weights(reference_graph, quantized, plans)),
            facts_of(quantized).allocation or (),
            [quantizer_node(node.args[operand.index]).target for node, _, operand in planned_operands(quantized)],
        ),
        layers=tuple(layers),
        blocks=tuple(BlockRow(path, actual.sqnr[node.name, node.name]) for path, node in blocks.items()),
        stayed_float=tuple((plan.kind, plan.path, plan.reason) for plan in stayed_float.values()),
        output_sqnr_db=_output_sqnr_db(expected, output, filled_outputs(reference_graph)),
        source_check=facts_of(quantized).source_check,
        sizes=_sizes(reference_graph, quantized),
        reconstruction=facts_of(quantized).reconstruction,
        unrotated=facts_of(quantized).unrotated,
        not_rewritten=tuple(
            (near.rule, near.path, near.reason) for near in facts_of(quantized).declined if near.node not in stayed_float
        ),
        channel_strengths=facts_of(quantized).channel_strengths,
        allocation=facts_of(quantized).allocation or (),
        preview=input_preview(quantized, sample),
    )


def sqnr_db(reference: Tensor, approximation: Tensor) -> float:
    """Returns 10 log10(|reference|² / |reference - approximation|²), in dB, at most 200.

    NaN if the shapes differ: rows that the network chooses by value may be others, and of another
    number.
    """
    if reference.shape != approximation.shape:
        return math.nan
    signal = noise = 0.0
    pairs = zip(reference.flatten().split(_AT_A_TIME), approximation.flatten().split(_AT_A_TIME), strict=True)
    for expected, found in pairs:  # in chunks: several float64 temporaries take twice the memory each
        expected = expected.double()
        signal += expected.square().sum().item()
        noise += (expected - found.double()).square_().sum().item()
    if noise == 0:
        return 200.0
    return 10 * math.log10(signal / noise) if signal else -200.0


def _output_sqnr_db(expected: Any, found: Any, filled: Sequence[bool]) -> float:
    """Returns the lowest SQNR of all float outputs; without any, that of the first tensor."""
    pairs = list(zip(_tensors(expected), _tensors(found), strict=True))
    floats = [(pair, added) for pair, added in zip(pairs, filled, strict=True) if pair[0].is_floating_point()]
    figures = [_sqnr_of_output(*pair, added=added) for pair, added in floats]
    return min((figure for figure in figures if not math.isnan(figure)), default=math.nan) if figures else sqnr_db(*pairs[0])


def _sqnr_of_output(reference: Tensor, approximation: Tensor, *, added: bool) -> float:
    """Returns ``sqnr_db`` of finite values, without mask fills such as -1e9, which would be all of the
    signal and have no error. NaN if the shapes differ.
    """
    if reference.shape != approximation.shape:
        return math.nan
    kept = reference.isfinite() & approximation.isfinite() & ~fill_values(approximation, reference, added=added)
    return sqnr_db(reference[kept], approximation[kept]) if kept.any() else math.nan


class _Reference:
    """Runs the float graph only as far as its values are read; each is dropped after its last read.

    Args:
        graph_module: The float graph.
        reads: Number of reads of each node's value, by name.
        sample: Inputs.
        storage: Where to keep values until they are read.
    """

    def __init__(self, graph_module: fx.GraphModule, reads: Mapping[str, int], sample: ModelInputs, storage: Storage) -> None:
        self._graph, self._interpreter = graph_module.graph, TidyInterpreter(graph_module)
        self._interpreter.args_iter = iter(self._graph.process_inputs(*flat_inputs(graph_module, *sample)))
        self._nodes, self._reads, self._storage = iter(self._graph.nodes), Counter(reads), storage
        self._kept = dict[str, SpilledTensor]()

    def read(self, name: str) -> Tensor:
        """Returns the value of a node; drops it after the last read."""
        while name not in self._kept:
            self._step(next(self._nodes))
        self._reads[name] -= 1
        return (self._kept[name] if self._reads[name] else self._kept.pop(name)).read()

    def output(self) -> Any:
        """Runs the rest and returns the graph's output."""
        for node in self._nodes:
            value = self._step(node)
        return self._graph.process_outputs(value)

    def _step(self, node: fx.Node) -> Any:
        run = self._interpreter
        value = run.env[node] = run.run_node(node)
        for dead in run.user_to_last_uses.get(node, ()):
            del run.env[dead]
        if self._reads[node.name]:
            self._kept[node.name] = self._storage.keep(value)
        return value


class _Comparer(TidyInterpreter):
    """Runs a graph, compares node values with a reference, and adds a row for every quantizer.

    Args:
        graph_module: The quantized graph.
        pairs: Names of a node of the float graph and of its counterpart in this graph.
        reference: The float graph's values.
        sizes: Multiply-adds that read each call of a quantizer, by the node's name.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        pairs: Sequence[tuple[str, str]],
        reference: _Reference,
        sizes: Mapping[str, int],
    ) -> None:
        super().__init__(graph_module)
        self._reference, self._sizes, self._parts = reference, sizes, tensor_parts(graph_module)
        self._outputs = {user for node in planned_outputs(graph_module) for user in node.users}
        self.sqnr, self.rows = dict[tuple[str, str], float](), list[TensorRow]()
        self._expected: dict[str, list[str]] = {}
        for name, own in dict.fromkeys(pairs):
            self._expected.setdefault(own, []).append(name)

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        for name in self._expected.get(n.name, ()):
            self.sqnr[name, n.name] = sqnr_db(self._reference.read(name), result)
        if n.op == "call_module" and isinstance(quantizer := self.fetch_attr(str(n.target)), Quantizer):
            args, _ = self.fetch_args_kwargs_from_env(n)
            kind = "output" if n in self._outputs else "activation"
            row = tensor_row(str(n.target), module_path(n), kind, quantizer, args[0], result)
            read = source_of(input_node(n, 0)).op == "placeholder"
            part, readers = self._parts.get(n.name, ("", ()))
            size = self._sizes.get(n.name, 0)
            self.rows.append(replace(row, size=size, network_input=read, part=part, readers=readers))
        return result


def tensor_row(name: str, path: str, kind: str, quantizer: Quantizer, x: Tensor, approximation: Tensor) -> TensorRow:
    """Returns the row of one tensor, given its float and its quantized values."""
    zero_point = quantizer.zero_point.double().mean().item() if isinstance(quantizer, (Uniform, ByteTable)) else None
    low, high = (x.min().item(), x.max().item()) if x.numel() else (0.0, 0.0)  # an expert may be given no rows
    counts = torch.histc(x.float(), HISTOGRAM_BINS, low, high) if high > low else torch.tensor([float(x.numel())])
    levels = quantizer.levels()
    levels = levels if levels.dim() == 1 else levels[:, 0]
    return TensorRow(
        name=name,
        path=path,
        kind=kind,
        quantizer=quantizer.label,
        bits=quantizer.bits,
        scale=quantizer.scale.double().mean().item(),  # type: ignore[operator]
        zero_point=zero_point,
        low=low,
        high=high,
        sqnr_db=sqnr_db(x, approximation),
        histogram=tuple(int(count) for count in counts),
        levels=tuple(levels.tolist()),
    )


def _weights(reference_graph: fx.GraphModule, quantized: fx.GraphModule, plans: dict[fx.Node, LayerPlan]) -> list[TensorRow]:
    rows = []
    for node, plan in plans.items():
        layer = called_module(quantized, node)
        if isinstance(layer, QuantizedLayer) and layer.quantizer is not None:
            reference = reference_graph.get_submodule(str(node.target))
            assert isinstance(reference, QuantizedLayer)
            weight = reference.effective_weight()
            row = tensor_row(str(node.target), plan.path, "weight", layer.quantizer, weight, layer.quantized_weight())
            rows.append(replace(row, size=weight.numel(), part="weight", readers=((plan.path, "weight"),)))
    return rows


def _multiply_adds_by_call(quantized: fx.GraphModule) -> Mapping[str, int]:
    """Returns the multiply-adds of the traced example that read each quantizer, by its node's name."""
    sizes = Counter[str]()
    for reader, _, operand in planned_operands(quantized):
        sizes[quantizer_node(reader.args[operand.index]).name] += multiply_adds(quantized, reader)
    return sizes


def _sizes(reference_graph: fx.GraphModule, quantized: fx.GraphModule) -> dict[str, int]:
    """Returns the bytes of all tensors as float32, and as stored in the file (codes at their bit width)."""
    layers = [module for module in quantized.modules() if isinstance(module, QuantizedLayer)]
    bits = {id(layer.codes): layer.quantizer.bits for layer in layers if layer.quantizer is not None}
    stored = 0
    for tensor in [*quantized.parameters(), *quantized.buffers()]:
        stored += -(-tensor.numel() * bits.get(id(tensor), 8 * tensor.element_size()) // 8)
    scales = {
        id(t)
        for module in reference_graph.modules()
        if isinstance(module, Quantizer)
        for t in module.state_dict(keep_vars=True).values()
    }
    tensors = [*reference_graph.parameters(), *reference_graph.buffers()]
    before = sum(tensor.numel() * 4 for tensor in tensors if id(tensor) not in scales)
    return {"weights, float32": before, "weights, stored": stored}


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
