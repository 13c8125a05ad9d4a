"""The factor of attention moves to the queries; the function stays, and so do factors of anything else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from qpass.graph.capture.trace import trace
from qpass.graph.edit import is_call
from qpass.passes import Canonicalize, ScaleQueries
from tests.models import MaskedAttention


def scalings(graph: fx.GraphModule) -> list[str]:
    """Names what each multiplication or division by a number reads."""
    kinds = (torch.ops.aten.mul.Tensor, torch.ops.aten.div.Tensor)
    return [str(node.args[0].target) for node in graph.graph.nodes if is_call(node, *kinds)]


def canonical(model: nn.Module, x: Tensor) -> fx.GraphModule:
    graph = trace(model.eval(), (x,))
    Canonicalize()(graph)
    return graph


@pytest.mark.parametrize("masked", [False, True])
def test_the_factor_moves_and_the_function_stays(masked: bool, vit: nn.Module, images: Tensor) -> None:
    model, x = (MaskedAttention(), torch.randn(2, 5, 16)) if masked else (vit, images[:2])
    graph = canonical(model, x)
    before = graph(x)
    assert [name for name in scalings(graph) if "matmul" in name]
    assert ScaleQueries()(graph)
    assert not [name for name in scalings(graph) if "matmul" in name]
    torch.testing.assert_close(graph(x), before)
    assert not ScaleQueries()(graph)


class Others(nn.Module):
    """Factors that stay: a tensor, and one of a product that something else reads too."""

    def forward(self, x: Tensor) -> Tensor:
        product = x @ x.transpose(1, 2)
        return product * 0.5 + product + (x @ x.transpose(1, 2)) * x.mean()


def test_other_factors_stay() -> None:
    assert not ScaleQueries()(canonical(Others(), torch.randn(2, 3, 3)))
