"""Views become reshapes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten
from qpass.passes import Canonicalize
from qpass.passes.rules.reshape_from_view import reshape_from_view
from tests.passes.rules.rule_case import Call, apply, count, seeded


def test_attention_that_is_viewed_behind_its_transpose_decomposes() -> None:
    """torch's fused attention gives strides that such a view needs; matmuls do not."""

    def attention(m: nn.Module, x: Tensor) -> Tensor:
        heads = x.view(-1, 5, 3, 4).transpose(1, 2)
        y = F.scaled_dot_product_attention(heads, heads, heads)
        return y.permute(0, 2, 1, 3).view(-1, 5, 12)

    graph, changed = apply(reshape_from_view, Call(attention), seeded(2, 5, 12))
    assert changed == 2
    assert count(graph, aten.view.default) == 0
    graph = trace(Call(attention).eval(), (seeded(2, 5, 12),))
    expected = graph(seeded(2, 5, 12))
    Canonicalize()(graph)
    torch.testing.assert_close(graph(seeded(2, 5, 12)), expected)
