"""Measures a quantized graph against the float graph that it came from, node by node."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx

from qpass.data import ModelInputs
from qpass.data.rows import batch_size
from qpass.graph import called_module, flat_inputs, get_plan, info, module_path
from qpass.input_dims import layout_of
from qpass.nn import QuantizedLayer
from qpass.passes.add_residual import sum_with_residual
from qpass.passes.blocks import find_blocks
from qpass.passes.plan import Declined, LayerPlan
from qpass.quantizers import Quantizer, Uniform
from qpass.report.model import BlockRow, LayerRow, QuantReport, TensorRow
from qpass.storage import KeptTensor, Storage

#: Bins of the histograms in the report.
HISTOGRAM_BINS = 60


def collect_report(
    reference_graph: fx.GraphModule, quantized: fx.GraphModule, sample: ModelInputs, storage: Storage | None = None
) -> QuantReport:
    """Runs both graphs on the sample and returns the report.

    Args:
        reference_graph: The same nodes with float numbers: see ``float_reference``.
        quantized: The frozen graph.
        sample: Calibration inputs that the errors are measured on.
        storage: Where the float values lie until they are compared; None is in memory.
    """
    blocks = find_blocks(quantized)
    plans = {node: plan for node in quantized.graph.nodes if isinstance(plan := get_plan(node), LayerPlan)}
    outputs = {node: sum_with_residual(quantized, node) for node in plans}
    pairs = [(node.name, outputs[node].name) for node in plans] + [(node.name, node.name) for node in blocks.values()]
    with torch.no_grad():
        reference = _Keeper(reference_graph, {name for name, _ in pairs}, Storage() if storage is None else storage)
        expected = reference.run(*flat_inputs(reference_graph, *sample))
        actual = _Comparer(quantized, pairs, reference.kept)
        output = actual.run(*flat_inputs(quantized, *sample))
    layers = [
        LayerRow(
            path=plan.path,
            kind=plan.kind,
            weight_bits=None if plan.weight is None else plan.weight.bits,
            input_bits=tuple(None if operand.spec is None else operand.spec.bits for operand in plan.operands),
            sqnr_db=actual.sqnr[node.name, outputs[node].name],
            residual_rank=0 if outputs[node] is node or plan.weight is None else plan.weight.residual_rank,
        )
        for node, plan in plans.items()
    ]
    return QuantReport(
        model=type(quantized).__name__,
        config=info(quantized)["config"].to_dict(),
        dynamic_batch=info(quantized)["dynamic_batch"],
        samples=batch_size(sample, layout_of(quantized)),
        tensors=(*actual.rows, *_weights(reference_graph, quantized, plans)),
        layers=tuple(layers),
        blocks=tuple(BlockRow(path, actual.sqnr[node.name, node.name]) for path, node in blocks.items()),
        stayed_float=tuple(
            (plan.kind, plan.path, plan.reason)
            for node in quantized.graph.nodes
            if isinstance(plan := get_plan(node), Declined)
        ),
        output_sqnr_db=sqnr_db(_first_tensor(expected), _first_tensor(output)),
        source_check=info(quantized).get("source_check"),
        sizes=_sizes(reference_graph, quantized),
        reconstruction=info(quantized).get("reconstruction", ()),
        unrotated=tuple(info(quantized).get("unrotated", ())),
        allocation=info(quantized).get("allocation", ()),
    )


def sqnr_db(reference: Tensor, approximation: Tensor) -> float:
    """Returns 10 log10(|reference|² / |reference - approximation|²), in dB, at most 200."""
    signal = reference.double().square().sum().item()
    noise = (reference.double() - approximation.double()).square().sum().item()
    if noise == 0:
        return 200.0
    return 10 * math.log10(signal / noise) if signal else -200.0


class _Keeper(fx.Interpreter):
    """Runs a graph and keeps the outputs of some nodes in a storage."""

    def __init__(self, graph_module: fx.GraphModule, names: set[str], storage: Storage) -> None:
        super().__init__(graph_module)
        self._names, self._storage, self.kept = names, storage, dict[str, KeptTensor]()

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.name in self._names:
            self.kept[n.name] = self._storage.keep(result)
        return result


class _Comparer(fx.Interpreter):
    """Runs a graph, compares what its nodes give with what was kept, and makes a row of every quantizer that it passes.

    Args:
        graph_module: The quantized graph.
        pairs: Names of a node of the float graph and of one of this graph that ought to give the same.
        kept: What the float graph gave, by name.
    """

    def __init__(self, graph_module: fx.GraphModule, pairs: Sequence[tuple[str, str]], kept: Mapping[str, KeptTensor]) -> None:
        super().__init__(graph_module)
        self._kept = kept
        self.sqnr, self.rows = dict[tuple[str, str], float](), list[TensorRow]()
        self._expected: dict[str, list[str]] = {}
        for reference, own in dict.fromkeys(pairs):
            self._expected.setdefault(own, []).append(reference)

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        for name in self._expected.get(n.name, ()):
            self.sqnr[name, n.name] = sqnr_db(self._kept[name].read(), result)
        if n.op == "call_module" and isinstance(quantizer := self.fetch_attr(str(n.target)), Quantizer):
            args, _ = self.fetch_args_kwargs_from_env(n)
            self.rows.append(tensor_row(str(n.target), module_path(n), "activation", quantizer, args[0], result))
        return result


def tensor_row(name: str, path: str, kind: str, quantizer: Quantizer, x: Tensor, approximation: Tensor) -> TensorRow:
    """Returns the row of one tensor, given its float and its quantized values."""
    zero_point = quantizer.zero_point.double().mean().item() if isinstance(quantizer, Uniform) else None
    low, high = x.min().item(), x.max().item()
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
            rows.append(row)
    return rows


def _sizes(reference_graph: fx.GraphModule, quantized: fx.GraphModule) -> dict[str, int]:
    """Returns the bytes of all tensors as float32, and as the file stores them (codes in as many bits as they have)."""
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


def _first_tensor(tree: Any) -> Tensor:
    return next(leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor))
