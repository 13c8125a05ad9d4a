"""Finds constants that take less space as operators than as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

#: A constant of up to this size is always stored.
SMALL_BYTES = 4096
#: File size of an operator: its names and attributes, and whatever the exporter adds around it.
NODE_BYTES = 512
#: Readers whose tensors are weights. Products become integer and norms are folded: both need stored
#: tensors.
_WEIGHTED = {
    *("linear", "conv1d", "conv2d", "conv3d", "convolution", "matmul", "mm", "bmm", "addmm", "baddbmm", "bilinear", "einsum"),
    *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    *("layer_norm", "batch_norm", "group_norm", "instance_norm", "rms_norm", "_native_batch_norm_legit_no_training"),
}
#: Operators that every backend computes alike. The output of any other operator is always stored.
REPEATABLE = {
    *("expand", "repeat", "repeat_interleave", "index", "index_select", "gather", "embedding", "cat", "stack"),
    *("view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze", "permute", "transpose", "t", "clone", "contiguous"),
    *("slice", "select", "pad", "constant_pad_nd", "roll", "flip", "tril", "triu", "alias", "detach", "_to_copy", "to"),
    *("add", "sub", "rsub", "mul", "div", "neg", "abs", "sign", "sqrt", "exp", "log", "sin", "cos", "tanh", "sigmoid"),
    *("clamp", "clamp_min", "clamp_max", "minimum", "maximum", "where", "masked_fill", "eq", "ne", "lt", "le", "gt", "ge"),
    *("logical_and", "logical_or", "logical_not", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_not"),
    *("zeros", "ones", "full", "arange", "zeros_like", "ones_like", "full_like"),
}
_DTYPES = (torch.float32, torch.int64, torch.int32, torch.bool)


@dataclass(frozen=True)
class _Form:
    """How a constant is kept: the stored tensors with their bytes, and the operators that stay."""

    stored: Mapping[fx.Node, int]
    operators: frozenset[fx.Node] = frozenset()

    @property
    def size(self) -> int:
        return sum(self.stored.values()) + NODE_BYTES * len(self.operators)


def kept_operators(values: Mapping[fx.Node, Any]) -> set[fx.Node]:
    """Returns the constant operators that stay in the graph, since their output takes more space.

    A relative position bias is much larger than its table, and a window mask than the region numbers
    that it compares. The file keeps the table and the numbers, and onnxruntime computes the rest once,
    when it loads the file.

    Args:
        values: Each constant node and its value, in order of execution.
    """
    forms: dict[fx.Node, _Form] = {}
    for node, value in values.items():
        size = value.numel() * value.element_size() if isinstance(value, Tensor) else 0
        made = None
        if size > SMALL_BYTES and _is_repeatable(node, values):
            made = _made_by(node, forms)
        forms[node] = _Form({node: size}) if made is None or made.size >= size else made
    outputs = [node for node in values if any(user not in values for user in node.users)]
    return {operator for node in outputs if not _is_weight(node, values) for operator in forms[node].operators}


def _made_by(node: fx.Node, forms: Mapping[fx.Node, _Form]) -> _Form:
    """Returns the form of a constant that stays a call; nodes that read the same constant split its cost."""
    stored, operators = dict[fx.Node, int](), {node}
    for read in node.all_input_nodes:
        form = forms[read]
        operators |= form.operators
        stored |= form.stored if form.operators else {read: form.size // len(read.users)}
    return _Form(stored, frozenset(operators))


def _is_repeatable(node: fx.Node, values: Mapping[fx.Node, Any]) -> bool:
    tensors = [values[read] for read in [node, *node.all_input_nodes]]
    known = all(isinstance(tensor, Tensor) and tensor.dtype in _DTYPES for tensor in tensors)
    return known and operator_name(node) in REPEATABLE


def _is_weight(node: fx.Node, values: Mapping[fx.Node, Any]) -> bool:
    return any(operator_name(user) in _WEIGHTED for user in node.users if user not in values)


def operator_name(node: fx.Node) -> str:
    """Returns an operator's name without its overload."""
    return str(node.target).removeprefix("aten.").split(".")[0]
