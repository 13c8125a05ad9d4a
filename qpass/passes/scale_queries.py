"""canonical -> canonical: matmul(q, kᵀ) * c -> matmul(q * c, kᵀ), as TensorRT fuses attention."""

from __future__ import annotations

from numbers import Real

from torch import fx

from qpass.graph.edit import aten, call_like, is_call, replace
from qpass.passes.base import Pass

_PRODUCTS = (aten.matmul.default, aten.bmm.default)
_SCALINGS = (aten.mul.Tensor, aten.div.Tensor)


class ScaleQueries(Pass):
    """Moves the factor behind a product of two activations to the first of them.

    Its quantizer then sees the scaled queries, and nothing stands between the product and the mask or
    Softmax. Only numbers that nothing but the product is multiplied by are moved.
    """

    takes, gives = "canonical", "canonical"
    keeps_function = True

    def run(self, graph_module: fx.GraphModule) -> bool:
        """See ``Pass.run``."""
        changed = False
        for node in list(graph_module.graph.nodes):
            if not is_call(node, *_SCALINGS) or node.kwargs or not isinstance(node.args[1], Real):
                continue
            product, number = node.args
            if not is_call(product, *_PRODUCTS) or len(product.users) > 1:
                continue
            scaled = call_like(graph_module, product, node.target, product.args[0], number)
            replace(node, call_like(graph_module, node, product.target, scaled, product.args[1]))
            changed = True
        return changed
