"""Outputs that the network also reads, moved and quantized: onnxruntime must not quantize the output itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

import qpass

MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "not moved": lambda y: y,
    "transposed": lambda y: y.transpose(0, 1),
    "flattened": lambda y: y.reshape(-1, 8),
    "flattened and transposed": lambda y: y.transpose(0, 1).reshape(-1, 2, 4).transpose(0, 1).reshape(-1, 8),
    "sliced": lambda y: y[:, 1:],
}


class _HiddenState(nn.Module):
    """Returns a hidden state beside what a head makes of it, as encoders with a pooling head do."""

    def __init__(self, move: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.head, self.move = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 6), MOVES[move]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = self.norm(self.first(x))
        return {"hidden": hidden, "pooled": self.head(self.move(hidden))}


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("move", MOVES)
def test_an_output_that_is_read_behind_a_movement_stays_float(move: str, tmp_path: Path) -> None:
    x = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(0))
    graph = qpass.quantize_graph(_HiddenState(move).eval(), [x], "w8a8", progress=False)
    path = qpass.export_onnx(graph, tmp_path / "m.onnx")
    assert qpass.verify_onnx(graph, path, x).passed
    assert [output.name for output in onnx.load(path).graph.output] == ["hidden", "pooled"]
