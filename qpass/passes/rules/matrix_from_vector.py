"""x @ v -> (x @ v[:, None])[..., 0] and v @ x -> (v[None] @ x)[..., 0, :], for 1-D v.

onnxruntime fuses a transpose into such a product and then computes a different product.
"""

from __future__ import annotations

from torch import fx

from qpass.graph.edit import aten, call_like, shape_of
from qpass.graph.fx_rule import fx_rule


@fx_rule(aten.matmul.default)
def matrix_from_vector(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Turns a vector that is multiplied with a matrix into a matrix."""
    dims = [len(shape_of(factor) or ()) for factor in node.args]
    for index, dim in ((1, -1), (0, -2)):
        if dims[index] == 1 and dims[1 - index] > 1:
            factors = list(node.args)
            factors[index] = call_like(graph_module, node, aten.unsqueeze.default, factors[index], dim if index else 0)
            product = call_like(graph_module, node, aten.matmul.default, *factors)
            return call_like(graph_module, node, aten.squeeze.dim, product, dim)
    return None
