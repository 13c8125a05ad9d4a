"""Quantizers and quantized layers of a graph as JSON and tensors, and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qpass.errors import DataError
from qpass.nn import QuantizedConv, QuantizedLayer, QuantizedLinear, ResidualFactor
from qpass.quantizers import QUANTIZERS, ByteTable, Codebook, LookUp, Quantizer, WeightCodebook
from qpass.serialize.module_checks import WINDOWS, check_layer, check_tensors, checked_config, checked_windows
from qpass.serialize.tensors import below
from qpass.serialize.values import decode, encode

#: A codebook of activations is deployed as a table of bytes.
_QUANTIZERS: list[type[nn.Module]] = [kind for kind in QUANTIZERS.values() if kind is not Codebook]
_TABLES: list[type[nn.Module]] = [LookUp, ByteTable, WeightCodebook]
_KINDS: list[type[nn.Module]] = [*_QUANTIZERS, *_TABLES, QuantizedLinear, ResidualFactor, QuantizedConv]
_MODULES = {kind.__name__: kind for kind in _KINDS}


def encode_module(module: nn.Module, where: str) -> dict[str, Any]:
    """Returns JSON data for a module that a graph calls, without its tensors.

    Raises:
        DataError: If files do not support its class.
    """
    kind = type(module).__name__
    if type(module) not in _KINDS:
        raise DataError(f"calls a {kind}, which no file can hold", where=where, expected=f"one of {', '.join(_MODULES)}")
    if isinstance(module, QuantizedLayer):
        quantizer = None if module.quantizer is None else encode_module(module.quantizer, where)
        windows = module.windows if isinstance(module, QuantizedConv) else {}
        return {"kind": kind, "quantizer": quantizer, "bias": module.bias is not None, **windows}
    assert isinstance(module, Quantizer)
    return {"kind": kind, "config": encode(module.config, where)}


def decode_module(data: Any, tensors: Mapping[str, Tensor], where: str) -> nn.Module:
    """Returns the module with its tensors.

    Raises:
        DataError: Naming the field or tensor that such a module does not have.
    """
    if not isinstance(data, dict) or str(data.get("kind")) not in _MODULES:
        raise DataError("is no module that a file can hold", where=where, expected=f"one of {', '.join(_MODULES)}")
    kind = _MODULES[str(data["kind"])]
    fields = {"kind", "config"} if issubclass(kind, Quantizer) else {"kind", "quantizer", "bias"}
    if issubclass(kind, QuantizedConv):  # earlier versions wrote only the groups: windows tiled the input
        fields |= {"groups"} if "stride" not in data else {"groups", *WINDOWS}
    if set(data) != fields:
        raise DataError(f"has the fields {sorted(data)}", where=where, expected=f"{sorted(fields)}")
    if issubclass(kind, Quantizer):
        return _quantizer(kind, decode(data["config"], {}, where), tensors, where)
    assert issubclass(kind, QuantizedLayer)
    return _layer(kind, data, tensors, where)


def _quantizer(kind: type[Quantizer], config: Any, tensors: Mapping[str, Tensor], where: str) -> Quantizer:
    quantizer = kind(**checked_config(kind, config, where))
    own = {**dict(quantizer.named_parameters()), **dict(quantizer.named_buffers())}
    _check_names(tensors, own, where)
    for key, value in tensors.items():
        if isinstance(own[key], nn.Parameter):
            setattr(quantizer, key, nn.Parameter(value, requires_grad=False))
        else:
            quantizer.register_buffer(key, value)
    check_tensors(quantizer, own, where)
    return quantizer


def _layer(kind: type[QuantizedLayer], data: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str) -> QuantizedLayer:
    own = {key: value for key, value in tensors.items() if not key.startswith("quantizer.")}
    weight_name = "codes" if "codes" in own else "weight"
    _check_names(own, {weight_name, *["bias"] * bool(data["bias"])}, where)
    weight, quantizer = own[weight_name], None
    if data["quantizer"] is not None:
        inner = decode_module(data["quantizer"], below("quantizer", tensors), f"{where}.quantizer")
        if not isinstance(inner, Quantizer):
            raise DataError(f"is a {type(inner).__name__}", where=f"{where}.quantizer", expected="a quantizer")
        quantizer = inner
    check_layer(kind, weight, own.get("bias"), quantizer, frozen="codes" in own, where=where)
    windows = checked_windows(data, weight, where) if kind is QuantizedConv else {}
    layer = kind(torch.zeros(0) if "codes" in own else weight, own.get("bias"), quantizer, **windows)
    if "codes" in own:
        layer.codes, layer.weight = weight, None
    return layer


def _check_names(found: Collection[str], expected: Collection[str], where: str) -> None:
    if set(found) != set(expected):
        raise DataError(f"has the tensors {sorted(found)}", where=where, expected=f"{sorted(expected)}")
