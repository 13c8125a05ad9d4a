"""Roundings that are drawn at random: as coarse as said, and the same for the same seed."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from qpass.graph.source_check.noise import COARSER, ROUNDING, NoisyRun


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.full((4,), 3.0), requires_grad=False)

    def forward(self, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        filled = torch.full_like(x, torch.finfo(torch.float32).min)
        return x, index + 1, filled + self.table * 0


def test_inputs_and_results_move_by_a_few_roundings() -> None:
    graph = fx.symbolic_trace(Model())
    x, index = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)), torch.arange(5)
    first, again, other = (NoisyRun(graph, seed).run(x, index) for seed in (0, 0, 1))
    moves = ((first[0].double() - x.double()) / x.double() / (COARSER * ROUNDING)).abs()
    assert 0.9 < moves.max() < 1.05, "a float32 rounding of the result comes on top"
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    assert torch.equal(first[1], index + 1), "integers are exact"
    assert first[2].isfinite().all(), "the least float32 does not become infinite"
    assert torch.equal(graph.table, torch.full((4,), 3.0))
