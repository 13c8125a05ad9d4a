"""Means of scattered values become sums and counts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from qpass.graph.edit import aten, calls
from qpass.passes.rules.mean_from_sums import mean_from_sums
from tests.contracts.judge import judge
from tests.passes.rules.rule_case import Call, apply, seeded

#: Places of five rows among four, the last of which gets none.
PLACES = torch.tensor([0, 1, 1, 0, 2])


@pytest.mark.parametrize("include_self", [True, False])
def test_a_mean_becomes_a_sum_over_a_count(include_self: bool) -> None:
    def function(m: Call, x: Tensor) -> Tensor:
        index = m.places[:, None].expand(x.shape[0], -1, 3)  # type: ignore[index]
        return x[:, 1:].scatter_reduce(1, index, x, reduce="mean", include_self=include_self)

    graph, changed = apply(mean_from_sums, Call(function, places=PLACES), seeded(2, 5, 3))
    assert changed == 1
    assert [node.args[4] for node in calls(graph, aten.scatter_reduce.two)] == ["sum", "sum"]


@pytest.mark.parametrize("reduce", ["sum", "amax", "amin", "prod"])
def test_others_stay(reduce: str) -> None:
    function = lambda m, x: x.scatter_reduce(1, m.places[None].expand(x.shape[0], -1), x, reduce=reduce)  # noqa: E731
    assert apply(mean_from_sums, Call(function, places=PLACES), seeded(2, 5))[1] == 0


class Merged(nn.Module):
    """Merges each even token into the odd token that is most like it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        even, odd = x[:, ::2], x[:, 1::2]
        nearest = (even @ odd.mT).argmax(-1)[..., None].expand(-1, -1, 16)
        return self.last(odd.scatter_reduce(1, nearest, self.first(even), reduce="mean").mean(1))


@pytest.mark.slow
def test_the_file_merges_tokens_as_the_model_does(tmp_path: Path) -> None:
    """torch's exporter writes a scatter that keeps one of the values in place of their mean."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Merged().eval()
    tokens = torch.nn.functional.one_hot(torch.arange(12) % 5, 16) * 4.0  # so far apart that rounding changes no choice
    batch = lambda rows: tokens + 0.1 * seeded(rows, 12, 16)  # noqa: E731
    judge(model, [batch(16), batch(15)], [batch(5)], folder=tmp_path)
