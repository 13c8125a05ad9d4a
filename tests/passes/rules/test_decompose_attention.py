"""torch's fused attention becomes products and a Softmax."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch.nn.functional as F
from torch import nn

from qpass.graph.edit import aten
from qpass.passes.rules.decompose_attention import decompose_attention
from tests.passes.rules.rule_case import Call, apply, count, seeded


@pytest.mark.parametrize("mask", ["none", "float", "bool", "causal", "scale"])
def test_numbers_and_form(mask: str) -> None:
    q = seeded(2, 3, 5, 4)
    options: dict[str, Callable[[nn.Module], dict[str, object]]] = {
        "none": lambda m: {},
        "float": lambda m: {"attn_mask": m.bias},
        "bool": lambda m: {"attn_mask": m.bias > -0.5},
        "causal": lambda m: {"is_causal": True},
        "scale": lambda m: {"scale": 0.3},
    }
    model = Call(lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, **options[mask](m)), bias=seeded(5, 5))
    graph, done = apply(decompose_attention, model, q, q + 1, q * 2)
    assert done == 1
    assert count(graph, aten.matmul.default) == 2
    assert count(graph, aten.softmax.int) == 1


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_heads_that_share_a_key_and_a_value(heads: int) -> None:
    q, kv = seeded(2, 4, 5, 4), seeded(2, heads, 5, 4)
    model = Call(lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True))
    graph, done = apply(decompose_attention, model, q, kv, kv * 2)
    assert done == 1
    assert count(graph, aten.matmul.default) == 2
    assert count(graph, aten.repeat_interleave.self_int) == (0 if heads == 4 else 2)
