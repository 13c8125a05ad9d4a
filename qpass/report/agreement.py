"""How often a quantized classifier's largest score is that of the float one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx

from qpass.data import ModelInputs
from qpass.graph.edit import aten, dtype_of, flat_inputs, get_plan, is_call, shape_of
from qpass.passes.annotate import source_of
from qpass.passes.plan import Declined, LayerPlan
from qpass.report.data import Agreement
from qpass.runtime.free_memory import TidyInterpreter

#: Calibration samples that are compared.
AGREEMENT_SAMPLES = 64
#: What may follow the last Linear of a classifier. Distilled ones average the scores of two.
_ON_SCORES = (
    aten.add.Tensor,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.softmax.int,
    aten._softmax.default,
    aten.log_softmax.int,
    aten._log_softmax.default,
)


def top1_agreement(
    reference_graph: fx.GraphModule, quantized: fx.GraphModule, batches: Sequence[ModelInputs]
) -> Agreement | None:
    """Compares the largest class scores of two graphs on calibration samples.

    Args:
        reference_graph: The graph in float.
        quantized: The same graph, quantized.
        batches: Calibration batches.

    Returns:
        The counts; None if the graph has no output of class scores: a float tensor (batch, classes)
        that a Linear computes, perhaps scaled or normalized by Softmax. It has none either if several
        outputs are such.
    """
    index = scores_index(reference_graph)
    if index is None:
        return None
    same = samples = classes = 0
    with torch.no_grad():
        for batch in batches:
            expected, found = (_leaves(graph, batch)[index] for graph in (reference_graph, quantized))
            if not expected.numel() or expected.shape != found.shape:
                continue
            count = min(len(expected), AGREEMENT_SAMPLES - samples)
            same += int((expected[:count].argmax(1) == found[:count].argmax(1)).sum())
            samples, classes = samples + count, expected.shape[1]
            if samples == AGREEMENT_SAMPLES:
                break
    return Agreement(same, samples, classes) if samples else None


def scores_index(graph_module: fx.GraphModule) -> int | None:
    """Returns the position of the class scores among a graph's outputs, or None."""
    output = next(iter(reversed(graph_module.graph.nodes)))
    leaves = [leaf for leaf in pytree.tree_leaves(output.args[0]) if isinstance(leaf, fx.Node)]
    found = [index for index, leaf in enumerate(leaves) if _is_scores(leaf)]
    return found[0] if len(found) == 1 else None


def _is_scores(node: fx.Node) -> bool:
    shape, dtype = shape_of(node) or (), dtype_of(node)
    if len(shape) != 2 or shape[1] < 2 or dtype is None or not dtype.is_floating_point:
        return False
    source = source_of(node)
    while is_call(source, *_ON_SCORES) and not _is_scaled_by_a_tensor(source):
        source = source_of(source.all_input_nodes[0])
    plan = get_plan(source)
    return is_call(source, aten.linear.default) or (isinstance(plan, LayerPlan | Declined) and plan.kind == "linear")


def _is_scaled_by_a_tensor(node: fx.Node) -> bool:
    """Returns whether a node divides by what was computed, as embeddings by their norm."""
    return is_call(node, aten.mul.Tensor, aten.div.Tensor) and len(node.all_input_nodes) > 1


def _leaves(graph_module: fx.GraphModule, batch: ModelInputs) -> list[Any]:
    found = TidyInterpreter(graph_module).run(*flat_inputs(graph_module, *batch))
    return [leaf for leaf in pytree.tree_leaves(found) if isinstance(leaf, Tensor)]
