"""Blocks are found by what numbered modules hold, however these are called."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from qpass.config import QuantConfig
from qpass.errors import UnsupportedError
from qpass.graph.capture.trace import trace
from qpass.graph.edit import aten
from qpass.passes import Annotate, Canonicalize, RequireBlocks
from qpass.passes.analysis.blocks import find_blocks, require_blocks
from tests.models import MaskedAttention


def annotated(model: nn.Module, x: Tensor) -> fx.GraphModule:
    graph = trace(model.eval(), (x,))
    Canonicalize()(graph)
    Annotate(QuantConfig.from_any("w8a8"))(graph)
    return graph


class Residual(nn.Module):
    """A block whose sums lie outside of the attention; numbered Linears inside are none."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = MaskedAttention()
        self.mlp = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.mlp(x)


class Stages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.groups = nn.ModuleList(nn.ModuleList([Residual(), Residual()]) for _ in range(2))
        self.heads = nn.ModuleList([nn.Linear(16, 4)])

    def forward(self, x: Tensor) -> Tensor:
        for group in self.groups:
            for block in group:
                x = block(x)
        return self.heads[0](x)


def test_the_smallest_numbered_modules_with_attention_are_blocks() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 16)
    model = Stages()
    outputs: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, Residual):
            module.register_forward_hook(lambda _, __, output, name=name: outputs.__setitem__(name, output))
    graph = annotated(model, x)
    blocks = find_blocks(graph)
    assert list(blocks) == ["groups.0.0", "groups.0.1", "groups.1.0", "groups.1.1"]
    model(x)
    run = fx.Interpreter(graph, garbage_collect_values=False)
    run.run(x)
    for path, node in blocks.items():
        assert node.target is aten.add.Tensor
        torch.testing.assert_close(run.env[node], outputs[path], rtol=1e-5, atol=1e-5)


def test_a_graph_without_a_block_is_refused() -> None:
    graph = annotated(nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4)), torch.randn(2, 8))
    assert find_blocks(graph) == {}
    for refuse in (require_blocks, RequireBlocks().run):
        with pytest.raises(
            UnsupportedError, match=r"the graph has no transformer block to learn.*choose a recipe that does not"
        ):
            refuse(graph)
