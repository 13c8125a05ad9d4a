"""Names what attention multiplies: QKᵀ and AV, and their factors Q, K, Softmax and V."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from torch import fx

from qpass.graph.edit import MOVEMENT_OPS, argument, aten, get_plan, is_call, shape_of
from qpass.passes.analysis.sources import planned_operands, quantizer_node
from qpass.passes.annotate import is_softmax
from qpass.passes.plan import LayerPlan

SCORES, MIXED = "QKᵀ", "AV"
#: What may stand between the product of queries and keys and its Softmax.
_ON_SCORES = (
    *MOVEMENT_OPS,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.masked_fill.Scalar,
    aten.masked_fill.Tensor,
    aten.where.self,
    aten.to.dtype,
    aten._to_copy.default,
    aten.clamp.default,
)


def layer_parts(graph_module: fx.GraphModule) -> dict[fx.Node, str]:
    """Returns what each planned matmul computes, unique within its module; "" for other layers."""
    plans = {node: plan for node in graph_module.graph.nodes if isinstance(plan := get_plan(node), LayerPlan)}
    parts = {node: _product(node, plan) if plan.kind == "matmul" else "" for node, plan in plans.items()}
    counts = Counter((plans[node].path, part) for node, part in parts.items())
    seen = Counter[tuple[str, str]]()
    for node, part in parts.items():
        key = plans[node].path, part
        seen[key] += 1
        if counts[key] > 1:
            parts[node] = f"{part} #{seen[key]}".strip()
    return parts


def tensor_parts(graph_module: fx.GraphModule) -> dict[str, tuple[str, tuple[tuple[str, str], ...]]]:
    """Returns what each quantizer's tensor is, and its readers as (module path, role in a rule).

    Keys are names of the quantizers' nodes.
    """
    layers = layer_parts(graph_module)
    found: dict[str, list[tuple[str, tuple[str, str]]]] = {}
    for reader, plan, operand in planned_operands(graph_module):
        part = _factor(reader, plan, operand.index, layers[reader]) if plan.kind == "matmul" else "input"
        name = quantizer_node(reader.args[operand.index]).name
        found.setdefault(name, []).append((part, (plan.path, operand.role)))
    return {
        name: (", ".join(dict.fromkeys(part for part, _ in uses)), tuple(dict.fromkeys(reader for _, reader in uses)))
        for name, uses in found.items()
    }


def _product(node: fx.Node, plan: LayerPlan) -> str:
    if any(operand.role == "post_softmax" for operand in plan.operands):
        return MIXED
    return SCORES if _softmax_of(node) is not None else "matmul"


def _factor(node: fx.Node, plan: LayerPlan, index: int, product: str) -> str:
    """Names a factor of a matmul; that of a repeated product has the product's number."""
    kind, _, number = product.partition(" #")
    if kind == MIXED:
        weights = next(operand.index for operand in plan.operands if operand.role == "post_softmax")
        name = "Softmax" if index == weights else "V"
    elif kind == SCORES:
        name = "QK"[index] if _over_columns(_softmax_of(node)) else "KQ"[index]
    else:
        name = f"{('first', 'second')[index]} factor"
    return f"{name} #{number}" if number else name


def _over_columns(softmax: fx.Node | None) -> bool:
    """Returns whether a Softmax is over the last dim: then rows of the scores belong to queries."""
    return softmax is None or argument(softmax, 1, "dim") in (-1, len(shape_of(softmax) or ()) - 1)


def _softmax_of(product: fx.Node) -> fx.Node | None:
    """Returns the Softmax of a product, looking through scales, masks and movements."""
    return next((node for node in _downstream(product) if is_softmax(node)), None)


def _downstream(product: fx.Node) -> Iterator[fx.Node]:
    waiting, seen = list(product.users), set[fx.Node]()
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            yield node
            if is_call(node, *_ON_SCORES):
                waiting.extend(node.users)
