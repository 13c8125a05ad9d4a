"""Refuses models that are already quantized: their rounding would be taken for part of the network."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, fx, nn

from qpass.errors import UnsupportedError
from qpass.graph.edit import is_inside
from qpass.graph.facts import facts_of
from qpass.nn import QuantizedLayer
from qpass.quantizers import Quantizer

#: Packages and modules whose layers round their weights or inputs.
_OTHERS = (
    *("torch.ao.nn.quantized", "torch.ao.nn.qat", "torch.ao.nn.sparse.quantized", "torch.ao.nn.quantizable"),
    *("torch.ao.nn.intrinsic.quantized", "torch.ao.nn.intrinsic.qat", "torch.ao.quantization.fake_quantize"),
    "torch.ao.quantization.observer",
    *("torchao", "bitsandbytes", "optimum.quanto", "auto_gptq", "gptqmodel", "awq", "hqq", "nncf"),
)
#: Namespaces of operators on quantized tensors.
_NAMESPACES = ("quantized", "quantized_decomposed", "torchao", "bitsandbytes", "_quantized")
#: Operators of torch that quantize or simulate it.
_QUANTIZING = re.compile(r"aten\.(_?fake_quantize|_?fused_moving_avg_obs|quantize_per|_?make_per|dequantize|int_repr)")
#: Dtypes of quantized weights.
_ROUNDED = (torch.int8, torch.uint8, torch.qint8, torch.quint8, torch.qint32)


def refuse_quantized(model: nn.Module, parts: Sequence[str] = ()) -> None:
    """Refuses a model that is already quantized, by qpass or others, in whole or in part.

    Args:
        model: The model.
        parts: Paths of the modules to quantize; empty for the whole model.

    Raises:
        UnsupportedError: If it is. Names the module and what quantized it.
    """
    known = dict(model.named_modules())
    for part in [name for name in parts if name in known] or [""]:
        for path, what in _found(known[part]):
            raise UnsupportedError(
                f"is quantized already: {what}",
                where=".".join(filter(None, (part, path))) or type(model).__name__,
                expected="a float model",
                hint="quantize the model that it was made from",
            )


def _found(model: nn.Module) -> Iterator[tuple[str, str]]:
    for path, module in model.named_modules():
        if isinstance(module, fx.GraphModule) and facts_of(module).stage == "frozen":
            yield path, "a graph that qpass made"
        if isinstance(module, QuantizedLayer | Quantizer):
            yield path, f"a {type(module).__name__} of qpass"
        if _is_in(type(module).__module__, _OTHERS):
            yield path, f"a {type(module).__module__}.{type(module).__name__}"
        if isinstance(module, fx.GraphModule):
            yield from ((path, f"it calls {node.target}") for node in module.graph.nodes if is_quantized_call(node))
        yield from _rounded_tensors(path, module)


def is_quantized_call(node: fx.Node) -> bool:
    """Returns whether a node calls an operator that quantizes, or one on quantized tensors."""
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and (
        target.namespace in _NAMESPACES or _QUANTIZING.match(str(target)) is not None
    )


def _rounded_tensors(path: str, module: nn.Module) -> Iterator[tuple[str, str]]:
    for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        full = f"{path}.{name}" if path else name
        if _is_in(type(tensor.data).__module__, _OTHERS):
            yield full, f"a {type(tensor.data).__name__}"
        elif tensor.is_quantized or (tensor.dtype in _ROUNDED and tensor.dim() >= 2 and _is_weight(name, tensor)):
            yield full, f"values of {str(tensor.dtype).removeprefix('torch.')}"


def _is_weight(name: str, tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) or "weight" in name.lower()


def _is_in(module: str, packages: Sequence[str]) -> bool:
    return any(is_inside(module, package) for package in packages)
