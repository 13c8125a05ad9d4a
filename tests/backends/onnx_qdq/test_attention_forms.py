"""Attention in the forms that decoders and detectors have it in runs on integers as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qpass
from qpass.backends.onnx_qdq.targets import TARGETS
from qpass.backends.onnxruntime.latency import fusion_of

WIDTH, HEADS = 48, 4


class CrossAttention(nn.Module):
    """Queries of one sequence, keys and values of another; ``key_heads`` of them, each for several heads of the query."""

    def __init__(
        self, key_heads: int = HEADS, *, repeats: bool = False, mask: Tensor | None = None, activates: bool = False
    ) -> None:
        super().__init__()
        self.key_heads, self.repeats, self.activates = key_heads, repeats, activates
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH // HEADS * heads) for heads in (HEADS, key_heads, key_heads))
        self.project, self.norm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = (
            layer(tokens).unflatten(-1, (heads, -1)).transpose(1, 2)
            for layer, tokens, heads in (
                (self.q, x, HEADS),
                (self.k, context, self.key_heads),
                (self.v, context, self.key_heads),
            )
        )
        if self.repeats:
            k, v = (t.repeat_interleave(HEADS // self.key_heads, 1) for t in (k, v))
        grouped = self.key_heads != HEADS and not self.repeats
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, enable_gqa=grouped)
        merged = y.transpose(1, 2).flatten(2)
        return self.norm(x + self.project(F.hardswish(merged) if self.activates else merged))


FORMS: dict[str, dict[str, Any]] = {
    "cross-attention": {},
    "float mask": {"mask": torch.linspace(-2, 2, 7 * 11).view(7, 11)},
    "bool mask": {"mask": (torch.arange(7 * 11) % 3 > 0).view(7, 11)},
    "an activation behind it, as in LeViT": {"activates": True},
    "grouped heads": {"key_heads": 2},
    "one key for all heads": {"key_heads": 1},
    "grouped heads, repeated by the model": {"key_heads": 2, "repeats": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("target", [name for name, target in TARGETS.items() if not target.lowering.explicit])
@pytest.mark.parametrize("form", FORMS)
def test_every_product_is_integer_and_the_network_the_same(form: str, target: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = CrossAttention(**FORMS[form]).eval()
    batch = {"x": torch.randn(8, 7, WIDTH), "context": torch.randn(8, 11, WIDTH)}
    graph = qpass.quantize_graph(model, [batch], "w8a8", progress=False)
    path = qpass.export_onnx(graph, tmp_path / "m.onnx", target=target)
    assert qpass.verify_onnx(graph, path, batch).passed
    fusion = fusion_of(path)
    assert sum(fusion.integer.values()) == 4 + 2
    assert (fusion.float, fusion.unfused, fusion.integer_arithmetic) == ({}, [], 1)
