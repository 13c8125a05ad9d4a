"""Canonicalization rules, one pattern per file, in the order in which they are applied."""

from qpass.graph.fx_rule import FxRule
from qpass.passes.rules.decompose_attention import decompose_attention
from qpass.passes.rules.distance_from_cdist import distance_from_cdist
from qpass.passes.rules.drop_no_ops import drop_no_ops
from qpass.passes.rules.float_bounds import float_bounds
from qpass.passes.rules.fold_batch_norm import fold_batch_norm
from qpass.passes.rules.fold_channel_scale import fold_channel_scale
from qpass.passes.rules.fold_constants import fold_constants
from qpass.passes.rules.indices_from_mask import indices_from_mask
from qpass.passes.rules.linear_from_matmul import bias_from_add, linear_from_addmm, linear_from_matmul
from qpass.passes.rules.matmul_from_einsum import matmul_from_einsum
from qpass.passes.rules.matrix_from_vector import matrix_from_vector
from qpass.passes.rules.mean_from_sums import mean_from_sums
from qpass.passes.rules.numeric_padding import numeric_padding
from qpass.passes.rules.reshape_from_view import reshape_from_view
from qpass.passes.rules.softmax_from_exp import softmax_from_logarithm, softmax_from_quotient, softmax_from_special
from qpass.passes.rules.split_baddbmm import split_baddbmm
from qpass.passes.rules.split_fused_qkv import split_fused_qkv
from qpass.runtime.public_names import only

RULES: tuple[FxRule, ...] = (
    drop_no_ops,
    fold_constants,
    distance_from_cdist,
    float_bounds,
    indices_from_mask,
    matrix_from_vector,
    mean_from_sums,
    numeric_padding,
    reshape_from_view,
    decompose_attention,
    split_baddbmm,
    matmul_from_einsum,
    softmax_from_special,
    softmax_from_logarithm,
    softmax_from_quotient,
    linear_from_matmul,
    linear_from_addmm,
    bias_from_add,
    fold_batch_norm,
    fold_channel_scale,
    split_fused_qkv,
)

__all__ = ["RULES"]
__dir__ = only(__all__)
