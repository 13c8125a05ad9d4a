"""Roundings that are drawn at random: as coarse as said, and the same for the same seed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qpass.graph.capture.trace import trace
from qpass.graph.edit import record_shapes
from qpass.graph.masks import mask_ranges
from qpass.graph.source_check.noise import COARSER, ROUNDING, NoisyRun


class Model(nn.Module):
    """Features, whole numbers, features under a mask, and the least float32 that is none."""

    def forward(self, x: Tensor, index: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        return x * 1, index + 1, x + (1.0 - mask) * -1e9, x.exp() * 0 + torch.finfo(torch.float32).min


def test_inputs_and_results_move_by_a_few_roundings() -> None:
    generator = torch.Generator().manual_seed(0)
    x, index = torch.randn(200, 4, generator=generator), torch.arange(200)
    mask = (torch.rand(200, 4, generator=generator) > 0.5).float()
    graph = trace(Model().eval(), (x, index, mask))
    record_shapes(graph)
    exact = mask_ranges(graph)
    (moved, whole, hidden, least), again, other = (NoisyRun(graph, seed, exact).run(x, index, mask) for seed in (0, 0, 1))
    moves = ((moved.double() - x.double()) / x.double() / (COARSER * ROUNDING)).abs()
    assert 1 < moves.max() < 2.1, "the input and the product"
    assert moves.mean() > 0.3
    assert torch.equal(moved, again[0])
    assert not torch.equal(moved, other[0])
    assert torch.equal(whole, index + 1), "integers are exact"
    assert least.isfinite().all(), "the least float32 does not become infinite"
    kept = mask.bool()
    assert (hidden[kept] - x[kept]).abs().max() < 4 * COARSER * ROUNDING * x.abs().max(), "a mask is exact"
    coarse = NoisyRun(graph, 0).run(x, index, mask)[2]
    assert (coarse[kept] - x[kept]).abs().max() > 1, "unless nobody says that it is"
