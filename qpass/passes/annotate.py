"""canonical -> annotated: plans what can be quantized, in node.meta, with a reason for what is not."""

from __future__ import annotations

import dataclasses
import difflib
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import fx

from qpass.config import QuantConfig, QuantSpec
from qpass.config.options import FitCriterion, QuantizerName
from qpass.errors import ConfigError, nearest
from qpass.graph.capture.functionalize import is_region, region_linears
from qpass.graph.edit import (
    MOVEMENT_OPS,
    argument,
    aten,
    dtype_of,
    get_constant,
    get_plan,
    input_node,
    is_call,
    module_path,
    set_plan,
    shape_of,
)
from qpass.graph.facts import facts_of, update_facts
from qpass.graph.fills import filled_values
from qpass.passes.analysis.convolutions import (
    CONVOLUTIONS,
    TRANSPOSED,
    Plans,
    float_input,
    is_matmul,
    refusal,
    requantized,
    windows_of,
)
from qpass.passes.analysis.positions import float_products
from qpass.passes.base import Pass
from qpass.passes.plan import Declined, LayerPlan, OperandPlan

_CASTS = (aten.to.dtype, aten._to_copy.default)
MATMULS = (aten.matmul.default, aten.bmm.default)
#: Paths that a message about a pattern names.
_SHOWN = 5
_OTHER_PRODUCTS = {
    aten.bilinear.default: "bilinear has two inputs beside its weight",
    **dict.fromkeys(
        (aten.mv.default, aten.dot.default, aten.tensordot.default, aten.addmv.default, aten.addbmm.default),
        "it is not turned into a matmul: write it as one",
    ),
}
#: Products that a canonicalization rule rewrites, unless it declines.
_REWRITTEN = {
    aten.scaled_dot_product_attention.default: "attention",
    aten.einsum.default: "einsum",
    aten.baddbmm.default: "baddbmm",
    aten.addmm.default: "addmm",
}


class Annotate(Pass):
    """Plans the quantization that a config requests. Inserts nothing.

    Args:
        config: The recipe.

    Raises (from ``run``):
        ConfigError: If a rule of the config matches no layer.
    """

    takes, gives = "canonical", "annotated"

    def __init__(self, config: QuantConfig) -> None:
        self.config = config

    def run(self, graph_module: fx.GraphModule) -> bool:
        """See ``Pass.run``."""
        plans: dict[fx.Node, LayerPlan | Declined | None] = {}
        for node in graph_module.graph.nodes:
            plans[node] = self._plan(graph_module, node, plans)
        for node, reason in float_products(graph_module).items():
            if isinstance(plan := plans[node], LayerPlan):
                plans[node] = Declined(kind=plan.kind, path=plan.path, reason=reason)
        filled = filled_values(graph_module)
        for node, plan in plans.items():
            if isinstance(plan, LayerPlan) and (reason := _filled(node, plan, filled)):
                plans[node] = Declined(kind=plan.kind, path=plan.path, reason=reason)
        directly = requantized(plans)
        for node, plan in plans.items():
            if isinstance(plan, LayerPlan) and node not in directly:
                plans[node] = self._quantized_output(graph_module, node, plan)
        self._check_rules({plan.path for plan in plans.values() if plan is not None})
        changed = False
        for node, plan in plans.items():
            if plan is not None and get_plan(node) != plan:
                set_plan(node, plan)
                changed = True
        update_facts(graph_module, config=self.config)
        if not any(isinstance(plan, LayerPlan) for plan in plans.values()):
            _warn_of_nothing(type(graph_module).__name__, [plan for plan in plans.values() if isinstance(plan, Declined)])
        return changed

    def _plan(self, graph_module: fx.GraphModule, node: fx.Node, plans: Plans) -> LayerPlan | Declined | None:
        if is_call(node, aten.linear.default):
            return self._layer(graph_module, node, "linear", plans)
        if is_call(node, *CONVOLUTIONS):
            return self._layer(graph_module, node, str(node.target).split(".")[1], plans)
        if is_call(node, *TRANSPOSED):
            reason = "transposed convolutions are not quantized"
            return Declined(kind=str(node.target).split(".")[1], path=module_path(node), reason=reason)
        if is_call(node, *MATMULS):
            return self._matmul(graph_module, node)
        if is_softmax(node):
            return self._softmax(node)
        if is_call(node, aten.exp.default, aten.exp2.default) and any(
            is_call(user, aten.sum.dim_IntList) for user in node.users
        ):
            return Declined(
                kind="softmax", path=module_path(node), reason="it is written as an exponential and a sum: write softmax"
            )
        if is_call(node, *_OTHER_PRODUCTS):
            kind = str(node.target).split(".")[1]
            return Declined(kind=kind, path=module_path(node), reason=_OTHER_PRODUCTS[node.target])  # type: ignore[index]
        if is_call(node, *_REWRITTEN):
            reasons = [near.reason for near in facts_of(graph_module).declined if near.node == node.name]
            return Declined(kind=_REWRITTEN[node.target], path=module_path(node), reason=reasons[0]) if reasons else None  # type: ignore[index]
        if is_region(node):
            name, count = str(node.target), region_linears(graph_module, node)
            reason = f"its control flow depends on data; {count} Linear{'s' * (count != 1)} inside"
            return Declined(kind=name, path=module_path(node), reason=reason)
        return None

    def _layer(self, graph_module: fx.GraphModule, node: fx.Node, kind: str, plans: Plans) -> LayerPlan | Declined:
        path = module_path(node)
        weight = get_constant(graph_module, node.args[1])
        bias = argument(node, 2, "bias")
        if weight is None or (bias is not None and get_constant(graph_module, bias) is None):
            return Declined(kind=kind, path=path, reason="its weight or bias is computed, not a constant")
        if weight.dtype != torch.float32:
            return Declined(kind=kind, path=path, reason=f"its weight is {weight.dtype}")
        first = _reads_network_input(input_node(node, 0))
        role = "post_softmax" if kind == "linear" and is_softmax(source_of(input_node(node, 0))) else "activation"
        spec = self.config.resolve(path, role, reads_network_input=first)
        if spec is not None and role == "post_softmax":
            spec = dataclasses.replace(spec, criterion=FitCriterion.TENSOR)  # no product of two activations reads it
        weight_spec, reason = self.config.resolve(path, "weight"), ""
        if kind != "linear":
            windows = windows_of(node, weight)
            declined = refusal(node, windows, self.config.convolutions)
            if windows is None or declined:
                return Declined(kind=kind, path=path, reason=declined)
            reason = float_input(node, windows, self.config, plans)
            if reason:
                spec = None
            elif weight_spec is not None and weight_spec.bits == 8 and not is_matmul(node, windows):
                weight_spec = dataclasses.replace(weight_spec, symmetric=True)  # kernels have no zero point per channel
        if spec is None and weight_spec is None:
            return Declined(kind=kind, path=path, reason="a rule of the config leaves it in float")
        operand = OperandPlan(index=0, spec=spec, signed=self.config.signed_codes, role=role)
        return LayerPlan(kind=kind, path=path, operands=(operand,), weight=weight_spec, reason=reason)

    def _quantized_output(self, graph_module: fx.GraphModule, node: fx.Node, plan: LayerPlan) -> LayerPlan:
        """Returns the plan of a layer whose output no quantizer reads, with one if its kernel needs it."""
        if self.config.signed_codes:  # integer kernels of GPUs give floats
            return plan
        weight = get_constant(graph_module, node.args[1])
        windows = None if weight is None or node.target not in CONVOLUTIONS else windows_of(node, weight)
        if windows is None or plan.operands[0].spec is None or is_matmul(node, windows):
            return plan
        spec = QuantSpec(bits=8, percentiles=self.config.activation.percentiles)
        return dataclasses.replace(plan, output=spec)

    def _matmul(self, graph_module: fx.GraphModule, node: fx.Node) -> LayerPlan | Declined | None:
        path = module_path(node)
        if any(get_constant(graph_module, operand) is not None for operand in node.args[:2]):
            return Declined(kind="matmul", path=path, reason="one factor is a constant that is not a Linear's weight")
        if other := [dtype for operand in node.args[:2] if (dtype := dtype_of(operand)) not in (None, torch.float32)]:
            return Declined(kind="matmul", path=path, reason=f"a factor is {other[0]}")
        if any(len(shape_of(operand) or ()) < 3 for operand in node.args[:2]):
            return Declined(kind="matmul", path=path, reason="a factor has fewer than three dims")
        operands = []
        for index, operand in enumerate((input_node(node, 0), input_node(node, 1))):
            role = "post_softmax" if is_softmax(source_of(operand)) else "activation"
            operands.append(self._operand(index, role, self.config.resolve(path, role)))
        if all(operand.spec is None for operand in operands):
            return Declined(kind="matmul", path=path, reason="a rule of the config leaves it in float")
        return LayerPlan(kind="matmul", path=path, operands=tuple(operands))

    def _softmax(self, node: fx.Node) -> LayerPlan | Declined | None:
        """Returns the plan of a Softmax; None if its readers' plans quantize it."""
        path, readers = module_path(node), _readers(node)
        if any(is_call(reader, *MATMULS, aten.linear.default) for reader in readers):
            return None
        if not self.config.every_softmax:
            return Declined(kind="softmax", path=path, reason="its output does not go straight into a matmul")
        if any(reader.op == "output" for reader in readers):
            return Declined(kind="softmax", path=path, reason="it is an output of the network")
        if dtype_of(node) not in (None, torch.float32):
            return Declined(kind="softmax", path=path, reason=f"its output is {dtype_of(node)}")
        spec = self.config.resolve(path, "post_softmax")
        if spec is None:
            return Declined(kind="softmax", path=path, reason="a rule of the config leaves it in float")
        return LayerPlan(
            kind="softmax", path=path, operands=(), output=dataclasses.replace(spec, criterion=FitCriterion.TENSOR)
        )

    def _operand(self, index: int, role: str, spec: QuantSpec | None) -> OperandPlan:
        """Returns the plan of a matmul's operand."""
        fused = self.config.signed_codes or (self.config.fused_attention and role == "activation")
        if fused and spec is not None and spec.quantizer == QuantizerName.UNIFORM:
            symmetric = dataclasses.replace(spec, symmetric=True)
            return OperandPlan(index=index, spec=symmetric, signed=True, role=role, where_read=True)
        # onnxruntime has integer kernels for uint8 x int8, not int8 x uint8: the second is signed.
        return OperandPlan(index=index, spec=spec, signed=index == 1, role=role)

    def _check_rules(self, paths: set[str]) -> None:
        for pattern, _ in self.config.rules:
            if not any(fnmatchcase(path, pattern) for path in paths):
                raise ConfigError(
                    "the pattern matches no Linear, patch embedding or attention",
                    where=f"rule {pattern!r}",
                    hint=_near(pattern, paths),
                )


def _near(pattern: str, paths: Collection[str]) -> str:
    """Returns a phrase with the layers that a pattern may mean."""
    inside = f"{pattern}.*"
    if any(fnmatchcase(path, inside) for path in paths):
        return f"{inside!r} matches the layers inside"
    others = difflib.get_close_matches(pattern, sorted(paths), n=_SHOWN)[1:]
    return nearest(pattern, paths) + (f" also near: {', '.join(others)}" if others else "")


def _warn_of_nothing(name: str, declined: Sequence[Declined]) -> None:
    """Warns that the whole graph stays float, with the most frequent reasons."""
    counts = Counter(f"{plan.kind}: {plan.reason}" for plan in declined)
    reasons = "; ".join(f"{count} x {reason}" for reason, count in counts.most_common(3))
    found = f" ({reasons})" if reasons else ": it has no Linear, patch embedding or attention"
    warnings.warn(f"{name}: nothing was found to quantize, the result is the float network{found}", stacklevel=2)


def source_of(node: fx.Node) -> fx.Node:
    """Follows a tensor back through operators that only move or cast its values."""
    while is_call(node, *MOVEMENT_OPS, *_CASTS):
        node = input_node(node, 0)
    return node


def _filled(node: fx.Node, plan: LayerPlan, filled: Mapping[fx.Node, float]) -> str:
    """Returns why a layer with an input to quantize stays float if a mask fills values into it, or ''."""
    inputs = [input_node(node, operand.index) for operand in plan.operands if operand.spec is not None]
    fill = next((filled[source] for source in inputs if source in filled), None)
    return "" if fill is None else f"a mask fills {fill:.4g} into its input, which no scale fits: mask behind it"


def is_softmax(node: fx.Node) -> bool:
    """Returns whether a node is a Softmax."""
    return is_call(node, aten.softmax.int, aten._softmax.default, aten._safe_softmax.default)


def _reads_network_input(node: fx.Node) -> bool:
    return source_of(node).op == "placeholder"


def _readers(node: fx.Node) -> list[fx.Node]:
    """Returns what reads a node, looking through operators that only move or cast its values."""
    found, waiting, seen = [], list(node.users), set()
    while waiting:
        reader = waiting.pop()
        if not is_call(reader, *MOVEMENT_OPS, *_CASTS):
            found.append(reader)
        elif reader not in seen:
            seen.add(reader)
            waiting.extend(reader.users)
    return found
