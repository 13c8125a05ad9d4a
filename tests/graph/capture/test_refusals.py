"""What no pass can take apart is refused by name, with what to do, before work starts."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention

import qpass
from qpass.errors import UnsupportedError

X = torch.randn(4, 6, 8)


class Part(nn.Module):
    """Two Linears and, between them, what is refused."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.first, self.second = kind, nn.Linear(8, 8), nn.Linear(8, 8)
        self.register_buffer("angles", torch.rand(8))
        self.inner = torch.jit.script(nn.Sequential(nn.Linear(8, 8))) if kind == "scripted" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if self.kind == "scripted":
            y = self.inner(y)
        elif self.kind == "flex":
            y = flex_attention(y[:, None], y[:, None], y[:, None])[:, 0]
        elif self.kind == "vmap":
            y = torch.vmap(self.second)(y)
        elif self.kind == "fake quantize":
            y = torch.fake_quantize_per_tensor_affine(y, 0.1, 0, -128, 127)
        elif self.kind == "fake quantize channels":
            y = torch.fake_quantize_per_channel_affine(y, torch.ones(8), torch.zeros(8), 2, -128, 127)
        elif self.kind == "quantize":
            y = torch.quantize_per_tensor(y, 0.1, 0, torch.qint8).dequantize()
        elif self.kind == "decomposed":
            importlib.import_module("torch.ao.quantization.fx._decomposed")  # registers the operators
            codes = torch.ops.quantized_decomposed.quantize_per_tensor(y, 0.1, 0, -128, 127, torch.int8)
            y = torch.ops.quantized_decomposed.dequantize_per_tensor(codes, 0.1, 0, -128, 127, torch.int8)
        elif self.kind == "constant":
            y = y + self.angles.bfloat16().cos().float()
        elif self.kind == "no cast":
            y = y.to(torch.float32).type_as(x)
        else:
            y = nn.functional.gelu(y.to(getattr(torch, self.kind))).float()
        return self.second(y)


class Whole(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.block = Part(kind)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("scripted", r"block\.inner: a module of torch\.jit.*pass the eager module"),
        ("flex", r"block .*flex_attention.*attn_mask"),
        ("vmap", r"torch\.func.*whole batch"),
        ("fake quantize", r"block .*is quantized already: it calls aten\.fake_quantize_per_tensor_affine"),
        ("fake quantize channels", r"block .*is quantized already: it calls aten\.fake_quantize_per_channel_affine"),
        ("quantize", r"block .*is quantized already: it calls aten\.quantize_per_tensor"),
        ("decomposed", r"block .*is quantized already: it calls quantized_decomposed\.quantize_per_tensor"),
        ("float16", r"block .*float16.*\.half\(\)"),
        ("bfloat16", r"block .*bfloat16.*\.bfloat16\(\)"),
    ],
)
def test_refused_by_name(kind: str, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        qpass.quantize_graph(Whole(kind).eval(), [X], "w8a8", progress=False)


@pytest.mark.parametrize("kind", ["constant", "no cast"])
def test_constants_may_be_of_any_type_and_casts_may_do_nothing(kind: str) -> None:
    graph = qpass.quantize_graph(Whole(kind).eval(), [X], "w8a8", progress=False)
    assert qpass.quantization_report(graph).counts == {"linear": 2}
