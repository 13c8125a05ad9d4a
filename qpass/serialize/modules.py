"""Quantizers and quantized layers of a graph as JSON and tensors, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qpass.errors import DataError
from qpass.nn import QuantizedConv, QuantizedLayer, QuantizedLinear, ResidualFactor
from qpass.quantizers import QUANTIZERS, LookUp, Quantizer
from qpass.serialize.values import decode, encode

_KINDS: list[type[nn.Module]] = [*QUANTIZERS.values(), LookUp, QuantizedLinear, ResidualFactor, QuantizedConv]
_MODULES = {kind.__name__: kind for kind in _KINDS}


def encode_module(module: nn.Module, where: str) -> dict[str, Any]:
    """Returns JSON data for a module that a graph calls, without its tensors.

    Raises:
        DataError: If it is of a class that a file does not hold.
    """
    kind = type(module).__name__
    if type(module) not in _KINDS:
        raise DataError(f"calls a {kind}, which no file can hold", where=where, expected=f"one of {', '.join(_MODULES)}")
    if isinstance(module, QuantizedLayer):
        quantizer = None if module.quantizer is None else encode_module(module.quantizer, where)
        groups = {"groups": module.groups} if isinstance(module, QuantizedConv) else {}
        return {"kind": kind, "quantizer": quantizer, "bias": module.bias is not None, **groups}
    assert isinstance(module, Quantizer)
    return {"kind": kind, "config": encode(module.config, where)}


def decode_module(data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    """Returns the module with its tensors."""
    kind = _MODULES[data["kind"]]
    if issubclass(kind, Quantizer):
        quantizer = kind(**decode(data["config"], {}))
        for key, value in tensors.items():
            if key in dict(quantizer.named_parameters()):
                setattr(quantizer, key, nn.Parameter(value, requires_grad=False))
            else:
                quantizer.register_buffer(key, value)
        return quantizer
    assert issubclass(kind, QuantizedLayer)
    inner = data["quantizer"]
    own = {key.removeprefix("quantizer."): value for key, value in tensors.items() if key.startswith("quantizer.")}
    weight_quantizer = None if inner is None else decode_module(inner, own)
    assert weight_quantizer is None or isinstance(weight_quantizer, Quantizer)
    groups = {"groups": data["groups"]} if kind is QuantizedConv else {}
    layer = kind(tensors.get("weight", torch.zeros(0)), tensors.get("bias"), weight_quantizer, **groups)
    if "codes" in tensors:
        layer.codes, layer.weight = tensors["codes"], None
    return layer
