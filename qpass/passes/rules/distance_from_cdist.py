"""cdist(x, y, p) -> the p-norm of x[..., :, None, :] - y[..., None, :, :].

ONNX has no operator for distances between all pairs, by which networks of point clouds find
neighbors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from qpass.graph.edit import argument, aten, call_like
from qpass.graph.fx_rule import fx_rule


@fx_rule(aten.cdist.default)
def distance_from_cdist(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node:
    """Subtracts all pairs. For 2-norms, torch itself may multiply them, which is less exact near 0."""
    norm = float(argument(node, 2, "p", 2.0))

    def call(target: Callable[..., Any], *args: object) -> fx.Node:
        return call_like(graph_module, node, target, *args)

    rows = [call(aten.unsqueeze.default, value, dim) for value, dim in zip(node.args[:2], (-2, -3), strict=True)]
    difference = call(aten.sub.Tensor, *rows)
    if norm == 2.0:
        return call(aten.sqrt.default, call(aten.sum.dim_IntList, call(aten.mul.Tensor, difference, difference), [-1]))
    distance = call(aten.abs.default, difference)
    if norm == float("inf"):
        return call(aten.amax.default, distance, [-1])
    if norm == 0.0:
        return call(aten.sum.dim_IntList, call(aten.sign.default, distance), [-1])
    if norm == 1.0:
        return call(aten.sum.dim_IntList, distance, [-1])
    powers = call(aten.sum.dim_IntList, call(aten.pow.Tensor_Scalar, distance, norm), [-1])
    return call(aten.pow.Tensor_Scalar, powers, 1 / norm)
