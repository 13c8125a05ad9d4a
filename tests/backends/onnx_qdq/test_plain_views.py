from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from qpass.backends.onnx_qdq.plain_views import replace_views
from qpass.graph.edit import aten

VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "flatten behind an open dim": lambda x: x.flatten(1),
    "flatten inside": lambda x: x.flatten(1, 2),
    "flatten with an open dim": lambda x: x.flatten(0, 1),
    "flatten of one dim": lambda x: x.flatten(2, 2),
    "flatten, all": lambda x: x.flatten(),
    "flatten, from the end": lambda x: x.flatten(-2),
    "unflatten": lambda x: x.unflatten(2, (2, 3)),
    "unflatten, from the end": lambda x: x.unflatten(-1, (-1, 2)),
    "chunk": lambda x: x.chunk(3, -1)[1],
    "chunk, fewer than asked for": lambda x: torch.cat([y.mean(1, keepdim=True) for y in x.chunk(3, 1)], 1),
    "contiguous": lambda x: x.transpose(1, 2).contiguous(),
    "reshape_as": lambda x: x.transpose(1, 2).reshape_as(x),
    "expand_as": lambda x: x[:, :1].expand_as(x) + 1,
}


class Viewed(nn.Module):
    def __init__(self, view: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.view = view

    def forward(self, x: Tensor) -> Tensor:
        return self.view(x * 2)


@pytest.mark.parametrize("name", sorted(VIEWS))
def test_the_graph_computes_the_same_at_every_size(name: str) -> None:
    x = torch.randn(3, 4, 6)
    program = torch.export.export(Viewed(VIEWS[name]), (x,), dynamic_shapes=({0: Dim("rows")},))
    shorthand = {node.target for node in program.graph.nodes if "aten" in str(node.target)}
    replace_views(program.graph_module)
    replaced = {node.target for node in program.graph.nodes if "aten" in str(node.target)}
    assert shorthand - replaced, "nothing was replaced"
    for rows in (1, 3, 5):
        given = torch.randn(rows, 4, 6)
        (found,) = program.graph_module(given)
        torch.testing.assert_close(found, VIEWS[name](given * 2), rtol=0, atol=0)


def test_a_chunk_of_an_open_dim_is_left() -> None:
    program = torch.export.export(Viewed(lambda x: x.chunk(2)[0]), (torch.randn(4, 2),), dynamic_shapes=({0: 2 * Dim("half")},))
    replace_views(program.graph_module)
    assert any(node.target is aten.chunk.default for node in program.graph.nodes)
