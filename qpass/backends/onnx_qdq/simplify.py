"""Folds what is constant in an exported graph and removes what does nothing, in time that grows as the graph does."""

from __future__ import annotations

import hashlib
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnxscript.optimizer import fold_constants_ir
from onnxscript.rewriter import onnx_fusions, rewrite
from onnxscript.rewriter.rules import common as rules

#: Rules of onnxscript's own optimiser, in its order. Left out is ``slice_split_rule``: a rule for two nodes at once tries each
#: node beside all others, and a loop over points that torch.export unrolls has thousands. Left out are also those that found
#: nothing in the models of docs/models.md: products between reshapes, dropout, fused activations, paddings and batch norms.
_RULES = (
    rules.mul_by_1_rule,
    rules.add_0_rule,
    rules.sub_0_rule,
    rules.div_by_1_rule,
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
#: Twice: what the rules leave may be constant.
_ROUNDS = 2
#: Elements from which a constant is folded only where it has no more than what it is made from: a file with a table of relative
#: positions and its index is smaller than one with a bias for each head. onnxruntime folds such constants when it loads a file.
_FOLDED_ELEMENTS = 1024


def simplify(model: ir.Model) -> None:
    """Does to a model, in place, what ``torch.onnx.export(..., optimize=True)`` does, save for the rules left out above."""
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
    """Makes initializers of the same type, shape and bytes one, however large: blocks have equal tables and masks."""

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
