"""annotated -> annotated: evens out the channels of activation functions' outputs.

Papers: SmoothQuant (https://arxiv.org/abs/2211.10438, equation 4: the strength α) scales channels
that earlier weights absorb. An activation function absorbs none: its output is multiplied.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from qpass.config import QuantSpec
from qpass.data import ModelInputs
from qpass.graph.edit import (
    add_constant,
    aten,
    call_like,
    flat_inputs,
    get_plan,
    input_node,
    is_call,
    module_path,
)
from qpass.graph.facts import facts_of, update_facts
from qpass.passes.analysis.layer_weights import LayerWeights
from qpass.passes.base import Pass
from qpass.passes.fold_layer_norm import keeps_last_dim
from qpass.passes.plan import LayerPlan
from qpass.progress import track
from qpass.quantizers import build_quantizer
from qpass.runtime.distributed import ALONE, Processes
from qpass.runtime.free_memory import TidyInterpreter

#: Strengths α that are tried; 0 leaves the channels as they are.
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
#: Rows of a tensor that are kept, over all batches. Every fourth judges, the others fit.
ROWS = 2048
#: Least magnitude of a channel, as a share of the mean: what is quiet here may be loud elsewhere.
LEAST_SHARE = 1 / 32
#: Functions whose outputs differ much by channel, and that no weight before can scale.
_FUNCTIONS = (aten.gelu.default, aten.silu.default, aten.hardswish.default, aten.elu.default, aten.relu.default)


class ScaleChannels(Pass):
    """Divides each channel c of an activation function's output by r_c; its Linears absorb the inverse.

    r_c = (m_c / mean m)^α, where m_c is the largest magnitude of the channel, bounded below. The
    Linears' weights become W diag(r): the function is unchanged, at the cost of one Mul. Of
    ``STRENGTHS``, each tensor takes the α with the least error of the Linears' outputs on rows that are
    held out, with the input and the weight quantized as planned; 0, without a Mul, where no other is
    better.

    Args:
        batches: Model inputs.
        processes: Processes that share the batches; all decide on the same rows.
        show_progress: Show a progress bar.
    """

    takes, gives = "annotated", "annotated"
    keeps_function = True

    def __init__(self, batches: Sequence[ModelInputs], *, processes: Processes = ALONE, show_progress: bool = False) -> None:
        self.batches, self.processes, self.show_progress = batches, processes, show_progress

    def run(self, graph_module: fx.GraphModule) -> bool:
        """See ``Pass.run``."""
        weights = LayerWeights(graph_module)
        readers = {point: linears for point, linears in _candidates(graph_module).items() if all(map(weights.read, linears))}
        rows = self._rows(graph_module, list(readers))
        strengths = []
        for point, linears in readers.items():
            spec = _spec(linears[0])
            weight = torch.cat([weights[linear][0] for linear in linears])
            strength, ratio = best_ratio(rows[point], weight, spec, get_plan(linears[0]).weight)
            strengths.append((module_path(point), strength))
            if strength:
                self._scale(graph_module, point, linears, ratio, weights)
        weights.write("scaled")
        update_facts(graph_module, channel_strengths=facts_of(graph_module).channel_strengths or tuple(strengths))
        return any(strength for _, strength in strengths)

    def _rows(self, graph_module: fx.GraphModule, points: list[fx.Node]) -> dict[fx.Node, Tensor]:
        """Returns rows of each tensor, (rows, channels), evenly spread over all batches."""
        share = -(-ROWS // len(self.batches))
        collector = _Collector(graph_module, points, share)
        with torch.no_grad():
            for batch in track(self.processes.share(self.batches) if points else (), "scale channels", show=self.show_progress):
                collector.run(*flat_inputs(graph_module, *batch))
        by_rank = self.processes.gather([collector.rows[point] for point in points])
        return {point: torch.cat(_in_turn([found[index] for found in by_rank])) for index, point in enumerate(points)}

    @staticmethod
    def _scale(
        graph_module: fx.GraphModule, point: fx.Node, linears: list[fx.Node], ratio: Tensor, weights: LayerWeights
    ) -> None:
        factor = add_constant(graph_module, f"{point.name}_channel_scale", (1 / ratio).float(), linears[0])
        scaled = call_like(graph_module, linears[0], aten.mul.Tensor, point, factor)
        for linear in linears:
            linear.args = (scaled, *linear.args[1:])
            weights[linear][0].mul_(ratio.to(weights[linear][0]))


class _Collector(TidyInterpreter):
    """Runs a graph and keeps some rows of some tensors, by batch."""

    def __init__(self, graph_module: fx.GraphModule, points: list[fx.Node], share: int) -> None:
        super().__init__(graph_module)
        self.rows: dict[fx.Node, list[Tensor]] = {point: [] for point in points}
        self._share = share

    def run_node(self, n: fx.Node) -> Tensor:
        """Runs one node and keeps rows of its output."""
        result: Tensor = super().run_node(n)
        if n in self.rows:
            rows = result.flatten(0, -2)
            step = max(1, len(rows) // self._share)
            self.rows[n].append(rows[::step][: self._share].clone())
        return result


def _in_turn(by_rank: list[list[Tensor]]) -> list[Tensor]:
    """Returns the parts of several processes in the order of one process's batches."""
    longest = max(map(len, by_rank))
    return [parts[index] for index in range(longest) for parts in by_rank if index < len(parts)]


def best_ratio(x: Tensor, weight: Tensor, spec: QuantSpec, weight_spec: QuantSpec | None) -> tuple[float, Tensor]:
    """Returns the best of ``STRENGTHS`` and its ratio by channel.

    Args:
        x: Rows of the tensor: (rows, channels).
        weight: Weights of its readers: (out, channels), float64.
        spec: How the tensor is to be quantized.
        weight_spec: How the weights are to be quantized; None for float.
    """
    held_out = torch.arange(len(x), device=x.device) % 4 == 3
    fitted, judged = (x, x) if len(x) < 4 else (x[~held_out], x[held_out])
    largest = fitted.abs().amax(0).double()
    largest = (largest / largest.mean().clamp(min=1e-30)).clamp(min=LEAST_SHARE)
    wanted = judged.double() @ weight.T
    best = 0.0, torch.ones_like(largest), float("inf")
    for strength in STRENGTHS:
        ratio = largest**strength
        quantizer = build_quantizer(spec, signed=False).to(x.device).fit((fitted / ratio).float())
        form = weight * ratio
        if weight_spec is not None:
            form = build_quantizer(weight_spec, signed=True, axis=0).to(x.device).fit(form.float())(form.float()).double()
        error = (quantizer((judged / ratio).float()).double() @ form.T - wanted).square().sum().item()
        if error < best[2]:
            best = strength, ratio, error
    return best[:2]


def _candidates(graph_module: fx.GraphModule) -> dict[fx.Node, list[fx.Node]]:
    """Returns the outputs of activation functions that planned Linears read, each with these Linears."""
    found: dict[fx.Node, list[fx.Node]] = {}
    for node in graph_module.graph.nodes:
        plan = get_plan(node)
        if isinstance(plan, LayerPlan) and plan.kind == "linear" and plan.operands[0].spec is not None:
            found.setdefault(input_node(node, 0), []).append(node)
    return {
        point: linears
        for point, linears in found.items()
        if _is_activation(point) and len({(_spec(linear), get_plan(linear).weight) for linear in linears}) == 1
    }


def _spec(linear: fx.Node) -> QuantSpec:
    plan = get_plan(linear)
    assert isinstance(plan, LayerPlan)
    spec = plan.operands[0].spec
    assert spec is not None
    return spec


def _is_activation(node: fx.Node) -> bool:
    """Returns whether a tensor is an activation function's output, possibly with its tokens moved."""
    shape = node.meta.get("shape") or (0,)
    while not is_call(node, *_FUNCTIONS):
        if not keeps_last_dim(node, shape[-1]):
            return False
        node = input_node(node, 0)
    return True
