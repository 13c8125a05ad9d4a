"""Distances between all pairs become differences."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from qpass.graph.edit import aten
from qpass.passes.rules.distance_from_cdist import distance_from_cdist
from tests.contracts.judge import judge
from tests.passes.rules.rule_case import Call, apply, count, seeded


@pytest.mark.parametrize("norm", [0.0, 0.5, 1.0, 2.0, 3.0, float("inf")])
def test_all_norms(norm: float) -> None:
    graph, changed = apply(distance_from_cdist, Call(lambda m, x: torch.cdist(x, x[:, :4] + 1, norm)), seeded(2, 7, 3))
    assert changed == 1
    assert count(graph, aten.cdist.default) == 0


def test_broadcast_and_matrices() -> None:
    function = lambda m, x: torch.cdist(x[:, None], m.places) + torch.cdist(m.places[0], m.places[0]).sum()  # noqa: E731
    _, changed = apply(distance_from_cdist, Call(function, places=seeded(3, 5, 3)), seeded(2, 7, 3))
    assert changed == 2


class Neighbors(nn.Module):
    """Takes the greatest features of each point's neighbors, of more points than torch subtracts itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        index = torch.cdist(x, x).topk(4, -1, largest=False).indices[..., None].expand(-1, -1, -1, 16)
        features = self.first(x)[:, None].expand(-1, x.shape[1], -1, -1)
        return self.last(features.gather(2, index).amax(2).mean(1))


@pytest.mark.slow
def test_the_file_finds_the_same_neighbors(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Neighbors().eval()
    judge(model, [seeded(16, 40, 3), seeded(15, 40, 3)], [seeded(5, 40, 3)], folder=tmp_path)
