"""The torch operators that a saved graph may call, by name. None has side effects.

The list holds what the ONNX exporter translates, what passes read or write, and what these
decompose into. It is an explicit list, not a rule: ``torch.ops`` grows with every imported package,
and operators such as ``aten.from_file`` open files. Operators that read out of bounds if sizes do
not match are left out: ``_reshape_alias``, and the internal ones of ``batch_norm``.
"""

from __future__ import annotations

from typing import Any

import torch

from qpass.errors import DataError

_ATEN = """
_adaptive_avg_pool2d _adaptive_avg_pool3d _cdist_forward _conj _convolution _fft_c2c _fft_c2r _fft_r2c _linalg_det
_local_scalar_dense _log_softmax _pdist_forward
_safe_softmax _scaled_dot_product_attention_math _shape_as_tensor _softmax _to_copy
_unsafe_index _unsafe_index_put _unsafe_view _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d
_upsample_nearest_exact2d _upsample_nearest_exact3d _weight_norm

__and__ __lshift__ __or__ __rshift__ __xor__ abs absolute acos acosh adaptive_avg_pool1d adaptive_avg_pool2d
adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d add addbmm addcdiv addcmul addmm addmv addr
affine_grid_generator alias all allclose amax amin aminmax angle any arange arccos arccosh arcsin arcsinh arctan
arctan2 arctanh argmax argmin argsort argwhere as_strided asin asinh atan atan2 atanh atleast_1d atleast_2d atleast_3d
avg_pool1d avg_pool2d avg_pool3d

baddbmm batch_norm bernoulli bilinear bincount bitwise_and bitwise_left_shift bitwise_not bitwise_or
bitwise_right_shift bitwise_xor blackman_window block_diag bmm broadcast_tensors broadcast_to bucketize cartesian_prod
cat cdist ceil celu chain_matmul channel_shuffle chunk clamp clamp_max clamp_min clip clone col2im column_stack
combinations complex concat concatenate conj constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d
conv_transpose2d conv_transpose3d convolution copy cos cosh cosine_similarity count_nonzero cross cummax cummin
cumprod cumsum

deg2rad det detach diag diag_embed diagflat diagonal diagonal_copy diagonal_scatter diff div divide dot dropout dstack
einsum elu embedding embedding_bag empty empty_like empty_strided eq equal erf erfc erfinv exp exp2 expand expand_as
expm1 eye

feature_dropout fft_fft fft_fft2 fft_fftfreq fft_fftn fft_fftshift fft_hfft fft_hfft2 fft_hfftn fft_ifft fft_ifft2
fft_ifftn fft_ifftshift fft_ihfft fft_ihfft2 fft_ihfftn fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2
fft_rfftfreq fft_rfftn fill fix flatten flip fliplr flipud float_power floor floor_divide fmax fmin fmod frac
frobenius_norm full full_like gather ge gelu ger glu greater greater_equal grid_sampler grid_sampler_2d
grid_sampler_3d group_norm gru gt

hamming_window hann_window hardshrink hardsigmoid hardswish hardtanh hardtanh_backward heaviside histc hstack hypot
im2col index index_add index_copy index_fill index_put index_select inner instance_norm inverse is_nonzero isclose
isfinite isin isinf isnan isneginf isposinf isreal item kron kthvalue layer_norm le leaky_relu lerp less less_equal
lift_fresh_copy linalg_cholesky linalg_cross linalg_det linalg_inv linalg_matmul linalg_matrix_norm
linalg_matrix_power linalg_norm linalg_solve linalg_svd linalg_vecdot linalg_vector_norm linear linspace log log10
log1p log2 log_sigmoid log_sigmoid_forward log_softmax logaddexp logaddexp2 logcumsumexp logical_and logical_not
logical_or logical_xor logit logspace logsumexp lstm lt

mH mT masked_fill masked_scatter masked_select matmul matrix_exp matrix_power max max_pool1d max_pool1d_with_indices
max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices maximum mean median meshgrid min minimum mish mm
movedim moveaxis msort mul multinomial multiply mv nan_to_num nanmean nansum narrow
native_channel_shuffle native_dropout native_group_norm native_layer_norm ne neg negative new_empty new_empty_strided
new_full new_ones new_zeros nonzero nonzero_numpy norm normal not_equal numpy_T one_hot ones ones_like outer

pad pairwise_distance permute pinverse pixel_shuffle pixel_unshuffle polar positive pow prelu prod rad2deg rand
rand_like randint randint_like randn randn_like randperm ravel reciprocal reflection_pad1d reflection_pad2d
reflection_pad3d relu relu6 remainder renorm repeat repeat_interleave replication_pad1d replication_pad2d
replication_pad3d reshape reshape_as resolve_conj resolve_neg rms_norm roll rot90 round rrelu rsqrt rsub

scalar_tensor scaled_dot_product_attention scatter scatter_add scatter_reduce searchsorted select select_scatter selu
sgn sigmoid sign signbit silu sin sinc sinh size slice slice_scatter softmax softplus softshrink sort special_digamma
special_entr special_erf special_erfc special_erfcx special_erfinv special_exp2 special_expit special_expm1
special_log1p special_log_softmax special_logit special_logsumexp special_round special_sinc special_softmax
special_xlogy split split_with_sizes sqrt square squeeze stack std std_mean stft sub subtract sum sum_to_size swapaxes
swapdims sym_numel sym_size sym_storage_offset sym_stride

t take take_along_dim tan tanh tensor_split tensordot threshold tile to topk trace transpose trapezoid tril
tril_indices triu triu_indices true_divide trunc type_as unbind unflatten unfold unique_consecutive unique_dim
unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_linear1d
upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d vander var var_mean vdot view view_as
view_as_complex view_as_complex_copy view_as_real view_as_real_copy view_copy vstack where xlogy zeros zeros_like

_unique2 copysign imag ldexp lgamma max_unpool2d nanmedian pdist quantile real special_i0
"""

#: Names of operators, without their overloads.
OPERATORS = frozenset(
    [f"aten.{name}" for name in _ATEN.split()]
    + [f"torchvision.{name}" for name in ("deform_conv2d", "nms", "roi_align", "roi_pool")]
)


def is_allowed(function: torch._ops.OpOverload) -> bool:
    """Returns whether a saved graph may call an operator: it is listed and mutates no tensor."""
    namespace, name = function.namespace, function._schema.name.split("::")[1]
    return f"{namespace}.{name}" in OPERATORS and not function._schema.is_mutable


def operator_by_name(name: str, where: str) -> Any:
    """Returns an operator by its name with its overload, such as ``"aten.add.Tensor"``.

    Raises:
        DataError: If files may not call it.
    """
    packet, _, overload = name.rpartition(".")
    if packet in OPERATORS:
        namespace, operator = packet.split(".")
        found = getattr(getattr(getattr(torch.ops, namespace), operator, None), overload, None)
        if isinstance(found, torch._ops.OpOverload) and is_allowed(found):
            return found
    raise DataError(f"calls {name!r}", where=where, expected="an operator that a file may call")
