from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qpass.reconstruction.curriculum import Curriculum


def test_the_share_grows_from_its_start_to_one() -> None:
    """Eq. 17 with λ0 = 0.5 and T = 100."""
    curriculum = Curriculum(torch.arange(8), 100, lambda s: s.float(), start=0.5)
    assert [curriculum.share(t) for t in (0, 50, 100, 200)] == [0.5, 0.75, 1.0, 1.0]


def test_only_the_easiest_are_drawn_and_the_ranking_is_refreshed() -> None:
    calls: list[int] = []

    def difficulty(samples: Tensor) -> Tensor:
        calls.append(len(samples))
        easy_last = -samples.float() if len(calls) == 1 else samples.float()
        return easy_last

    generator = torch.Generator().manual_seed(0)
    curriculum = Curriculum(torch.arange(100), 1000, difficulty, start=0.2, interval=10)
    early = torch.cat([curriculum.draw(t, 5, generator) for t in range(10)])
    assert early.min() >= 79, "the greatest indices have the least loss at first"
    later = torch.cat([curriculum.draw(t, 5, generator) for t in range(10, 20)])
    assert later.max() <= 21
    assert calls == [100, 100]


def test_switched_off_it_draws_from_all_and_never_ranks() -> None:
    def refuse(samples: Tensor) -> Tensor:
        pytest.fail("ranked")

    generator = torch.Generator().manual_seed(0)
    curriculum = Curriculum(torch.arange(50), 100, refuse, start=1.0, interval=1)
    drawn = torch.cat([curriculum.draw(t, 10, generator) for t in range(100)])
    assert set(drawn.tolist()) == set(range(50))


def test_no_sample_comes_twice_in_a_batch() -> None:
    curriculum = Curriculum(torch.arange(10), 100, lambda s: s.float(), start=0.5)
    assert sorted(curriculum.draw(0, 5, torch.Generator().manual_seed(0)).tolist()) == list(range(5))
    assert sorted(curriculum.draw(0, 32, torch.Generator().manual_seed(0)).tolist()) == list(range(10)), "all that there are"


def test_a_batch_is_whole_where_the_share_has_fewer() -> None:
    """A graph whose batch is fixed takes no smaller one."""
    curriculum = Curriculum(torch.arange(10), 100, lambda s: -s.float(), start=0.2)
    assert sorted(curriculum.draw(0, 4, torch.Generator().manual_seed(0)).tolist()) == [6, 7, 8, 9]
