"""Invariants of a graph at each stage and all later ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import fx

from qpass.errors import PassError
from qpass.graph.edit import MOVEMENT_OPS, aten, called_module, describe, get_plan, is_call
from qpass.graph.facts import facts_of
from qpass.nn import QuantizedLayer
from qpass.passes.analysis.sources import planned_operands, planned_outputs
from qpass.passes.plan import Declined, LayerPlan
from qpass.quantizers import Quantizer

#: The stages of a graph, in order.
STAGES = ("traced", "canonical", "annotated", "calibrated", "quantized", "fitted", "frozen")
#: Maximum number of violations named in an error.
_NAMED = 4
#: Yields a description of each violation.
Check = Callable[[fx.GraphModule], Iterator[str]]


def check_invariants(graph_module: fx.GraphModule, stage: str) -> None:
    """Checks the invariants of a stage and of all earlier ones.

    Raises:
        PassError: If an invariant does not hold; names the violations.
    """
    reached = STAGES[: STAGES.index(stage) + 1]
    if wrong := [what for name in reached for check in _CHECKS.get(name, ()) for what in check(graph_module)]:
        more = f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise PassError(f"invalid graph at stage {stage!r}: {'; '.join(wrong[:_NAMED])}{more}")


def _results_are_recorded(graph_module: fx.GraphModule) -> Iterator[str]:
    for node in graph_module.graph.nodes:
        if (
            node.op in ("call_function", "call_module")
            and node.users
            and "result" not in node.meta
            and "shape" not in node.meta
        ):
            yield f"the output of {describe(node)} is not recorded"


def _views_are_reshapes(graph_module: fx.GraphModule) -> Iterator[str]:
    for node in graph_module.graph.nodes:
        if is_call(node, aten.view.default):
            yield f"{describe(node)} is a view, which fails where other rules change strides"


def _recipe_is_noted(graph_module: fx.GraphModule) -> Iterator[str]:
    if facts_of(graph_module).config is None:
        yield "no recipe is noted"


def _plans_fit(graph_module: fx.GraphModule) -> Iterator[str]:
    for node in graph_module.graph.nodes:
        plan = get_plan(node)
        if plan is not None and not isinstance(plan, LayerPlan | Declined):
            yield f"{describe(node)} has a plan of type {type(plan).__name__}"
        for operand in plan.operands if isinstance(plan, LayerPlan) else ():
            if operand.index >= len(node.args) or not isinstance(node.args[operand.index], fx.Node):
                yield f"the plan of {describe(node)} names operand {operand.index}, which it does not have"


def _plans_are_carried_out(graph_module: fx.GraphModule) -> Iterator[str]:
    for node, _, operand in planned_operands(graph_module):
        source = node.args[operand.index]
        while is_call(source, *MOVEMENT_OPS):
            source = source.args[0]
        if not isinstance(called_module(graph_module, source), Quantizer):
            yield f"operand {operand.index} of {describe(node)} is not quantized"
    for node in planned_outputs(graph_module):
        if any(not isinstance(called_module(graph_module, user), Quantizer) for user in node.users):
            yield f"the output of {describe(node)} is not quantized"
    for node in graph_module.graph.nodes:
        plan = get_plan(node)
        if isinstance(plan, LayerPlan) and plan.weight is not None and not _is_layer(graph_module, node):
            yield f"the weight of {describe(node)} is not quantized"


def _is_layer(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    return isinstance(called_module(graph_module, node), QuantizedLayer)


def _weights_are_codes(graph_module: fx.GraphModule) -> Iterator[str]:
    for name, module in graph_module.named_modules():
        if isinstance(module, QuantizedLayer) and module.quantizer is not None and not module.frozen:
            yield f"{name} has a float weight"


def _quantizers_are_on(graph_module: fx.GraphModule) -> Iterator[str]:
    for name, module in graph_module.named_modules():
        if isinstance(module, Quantizer) and not module.enabled:
            yield f"{name} is switched off"


_CHECKS: dict[str, tuple[Check, ...]] = {
    "traced": (_results_are_recorded,),
    "canonical": (_views_are_reshapes,),
    "annotated": (_recipe_is_noted, _plans_fit),
    "quantized": (_plans_are_carried_out,),
    "frozen": (_weights_are_codes, _quantizers_are_on),
}
