"""Folds constants and removes no-ops in an exported graph, in time linear in the graph's size."""

from __future__ import annotations

import hashlib
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnxscript.optimizer import fold_constants_ir
from onnxscript.rewriter import onnx_fusions, rewrite
from onnxscript.rewriter.pattern import Constant, RewriteRule
from onnxscript.rewriter.rules import common as rules


def _no_op(operator: str, value: int) -> RewriteRule:
    """Returns the rule that drops an operator whose second input is this scalar, to the last bit.

    onnxscript's own rules accept values within 1e-8 of 0 and within 1e-5 of 1: they drop the 1e-12
    that keeps a division from infinity.
    """

    def pattern(op: Any, x: Any) -> Any:
        return getattr(op, operator)(x, Constant(value, rel_tol=0.0, abs_tol=0.0))

    return RewriteRule(pattern, lambda op, x, **_: op.Identity(x), name=f"{operator.lower()}_{value}")


#: Rules of onnxscript's own optimiser, in its order. ``slice_split_rule`` is left out: a rule that
#: matches two nodes at once tries every pair, and a loop over points that torch.export unrolls has
#: thousands of nodes. Rules that matched nothing in the models of docs/models.md are also left out:
#: products between reshapes, dropout, fused activations, paddings and batch norms.
_RULES = (
    _no_op("Mul", 1),
    _no_op("Add", 0),
    _no_op("Sub", 0),
    _no_op("Div", 1),
    rules.cast_constant_of_shape_rule,
    rules.cast_constant_of_shape_without_value_rule,
    rules.collapse_slice_rule,
    rules.collapse_slice2_rule,
    rules.materialize_reshape_shape_rule,
    rules.min_min_rule,
    rules.max_max_rule,
    rules.min_max_rule,
    rules.max_min_rule,
    rules.cast_cast_rule,
    rules.no_op_cast_rule,
    rules.no_op_expand_rule,
    rules.flatten_to_reshape_rule,
    rules.reshape_reshape_rule,
    rules.no_op_transpose_rule,
    rules.transpose_transpose_rule,
    rules.unsqueeze_unsqueeze_rule,
    rules.squeeze_reshape_1d_rule,
    rules.no_op_dynamic_scatter_nd_rule,
    rules.no_op_static_scatter_nd_rule,
    rules.remove_optional_bias_from_conv_rule,
    rules.remove_optional_bias_from_conv_transpose_rule,
    rules.remove_optional_bias_from_gemm_rule,
)
#: Two rounds: the rules may leave new constants to fold.
_ROUNDS = 2
#: From this many elements on, a constant is folded only if it has no more elements than its inputs:
#: a file with a table of relative positions and its index is smaller than one with a bias for each
#: head. onnxruntime folds such constants when it loads a file.
_FOLDED_ELEMENTS = 1024


def simplify(model: ir.Model) -> None:
    """Optimises a model in place as ``torch.onnx.export(..., optimize=True)`` does.

    Only the rules named above are left out.
    """
    common.InlinePass()(model)
    for _ in range(_ROUNDS):
        fold_constants_ir(model, onnx_shape_inference=True, output_size_limit=_FOLDED_ELEMENTS)
        rewrite(model, _RULES)
    ir.passes.Sequential(
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        ShareInitializers(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )(model)
    onnx_fusions.fuse(model)


class ShareInitializers(ir.passes.InPlacePass):  # type: ignore[misc]
    """Merges initializers of equal dtype, shape and bytes, of any size: blocks share tables and masks."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """See ``onnx_ir.passes.InPlacePass``."""
        initializers, seen, modified = model.graph.initializers, dict[Any, ir.Value](), False
        for name, value in list(initializers.items()):
            tensor = value.const_value
            if tensor is None or value.is_graph_input() or value.is_graph_output():
                continue
            key = tensor.dtype, tuple(tensor.shape), hashlib.sha256(tensor.tobytes()).digest()
            first = seen.setdefault(key, value)
            if first is not value:
                value.replace_all_uses_with(first)
                del initializers[name]
                modified = True
        return ir.passes.PassResult(model, modified)
