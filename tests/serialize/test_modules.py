"""Quantizers and layers come back from plain data and tensors, to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qpass.errors import DataError
from qpass.nn import QuantizedConv, QuantizedLinear, ResidualFactor
from qpass.quantizers import QUANTIZERS, ByteTable, Codebook, LookUp, Quantizer, Uniform
from qpass.serialize.modules import decode_module, encode_module

MAPS = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0)).mul(3).softmax(-1)


def weighted(kind: Callable[..., Any], *shape: int, bias: bool = True, **options: Any) -> Any:
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    layer = kind(
        weight, torch.ones(shape[0]) if bias else None, Uniform(4, signed=True, axis=0).fit(weight.flatten(1)), **options
    )
    layer.freeze()
    return layer


QUANTIZED = {name: kind(4).fit(MAPS.flatten()) for name, kind in QUANTIZERS.items()}
MODULES: dict[str, tuple[nn.Module, Tensor]] = {
    **{name: (quantizer, MAPS) for name, quantizer in QUANTIZED.items() if not isinstance(quantizer, Codebook)},
    "codebook": (ByteTable.of(Codebook(4).fit(MAPS.flatten())), MAPS),  # as it is deployed
    "table": (LookUp.of(QUANTIZED["tan"]), MAPS),
    "linear": (weighted(QuantizedLinear, 5, 7), torch.ones(2, 7)),
    "without a bias": (weighted(QuantizedLinear, 5, 7, bias=False), torch.ones(2, 7)),
    "residual": (weighted(ResidualFactor, 5, 7), torch.ones(2, 7)),
    "groups": (weighted(QuantizedConv, 4, 2, 3, 3, groups=2), torch.ones(1, 4, 6, 6)),
    "windows": (
        weighted(QuantizedConv, 4, 2, 3, 3, stride=[2, 1], padding=[1, 2], dilation=[1, 2]),
        torch.ones(1, 2, 6, 6),
    ),
    "float weight": (QuantizedLinear(torch.ones(5, 7), None, None), torch.ones(2, 7)),
}


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("name", MODULES)
def test_they_compute_the_same_bits(name: str) -> None:
    module, x = MODULES[name]
    data = json.loads(json.dumps(encode_module(module, "x")))
    again = decode_module(data, state(module), "x")
    assert type(again) is type(module)
    assert torch.equal(again(x), module(x))
    assert state(again).keys() == state(module).keys()
    assert encode_module(again, "x") == encode_module(module, "x")
    if isinstance(module, Quantizer):
        assert isinstance(again, Quantizer)
        assert again.config == module.config


def test_modules_of_other_classes_are_not_written() -> None:
    with pytest.raises(DataError, match="x: calls a Linear, which no file can hold; expected one of"):
        encode_module(nn.Linear(2, 2), "x")


def without(key: str) -> Callable[[dict[str, Any], dict[str, Tensor]], object]:
    return lambda data, tensors: data.pop(key)


CHANGES: dict[str, tuple[Callable[[dict[str, Any], dict[str, Tensor]], object], str]] = {
    "another class": (lambda data, _: data.update(kind="Linear"), "x: is no module that a file can hold"),
    "no class": (without("kind"), "x: is no module"),
    "a field less": (without("bias"), r"x: has the fields \['kind', 'quantizer'\]"),
    "a field more": (lambda data, _: data.update(groups=1), "x: has the fields"),
    "a tensor less": (lambda _, tensors: tensors.pop("bias"), r"x: has the tensors \['codes'\]; expected \['bias', 'codes'\]"),
    "a tensor more": (lambda _, tensors: tensors.update(more=torch.ones(1)), "x: has the tensors"),
    "a layer as quantizer": (
        lambda data, _: data.update(quantizer={"kind": "QuantizedLinear", "quantizer": None, "bias": False}),
        r"x\.quantizer: has the tensors",
    ),
    "a scale below zero": (lambda _, tensors: tensors.update({"quantizer.scale": -tensors["quantizer.scale"]}), "scale"),
    "codes out of range": (lambda _, tensors: tensors.update(codes=tensors["codes"] + 100), "x"),
    "another bit width": (lambda data, _: data["quantizer"]["config"]["dict"].__setitem__(0, ["bits", 9]), "bits"),
}


WINDOWS: dict[str, tuple[str, Any]] = {
    "a stride of zero": ("stride", [0, 1]),
    "a padding below zero": ("padding", [-1, 0]),
    "a padding beyond any image": ("padding", [2**40, 0]),
    "a number too few": ("dilation", [1]),
    "no list": ("stride", 2),
    "no whole number": ("dilation", [1.5, 1]),
    "another number of groups": ("groups", 3),
}


@pytest.mark.parametrize("change", WINDOWS)
def test_windows_that_no_convolution_has_are_refused(change: str) -> None:
    module = MODULES["windows"][0]
    name, value = WINDOWS[change]
    data = {**json.loads(json.dumps(encode_module(module, "x"))), name: value}
    with pytest.raises(DataError, match=rf"x\.{name}: is "):
        decode_module(data, dict(state(module)), "x")


@pytest.mark.parametrize("lost", ["padding", "dilation"])
def test_windows_are_all_there(lost: str) -> None:
    module = MODULES["windows"][0]
    data = {key: value for key, value in encode_module(module, "x").items() if key != lost}
    with pytest.raises(DataError, match="x: has the fields"):
        decode_module(data, dict(state(module)), "x")


def test_windows_of_earlier_versions_tile_the_input() -> None:
    module, x = MODULES["groups"]
    data = encode_module(module, "x")
    assert set(data) == {"kind", "quantizer", "bias", "groups"}
    again = decode_module(data, dict(state(module)), "x")
    assert isinstance(again, QuantizedConv)
    assert again.stride == (3, 3)
    assert torch.equal(again(x), module(x))


@pytest.mark.parametrize("change", CHANGES)
def test_others_are_refused_by_name(change: str) -> None:
    module = MODULES["linear"][0]
    data, tensors = json.loads(json.dumps(encode_module(module, "x"))), dict(state(module))
    apply, message = CHANGES[change]
    apply(data, tensors)
    with pytest.raises(DataError, match=message):
        decode_module(data, tensors, "x")
