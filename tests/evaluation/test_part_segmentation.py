from __future__ import annotations

import pytest
import torch

from qpass.data import PointClouds
from qpass.errors import DataError
from qpass.evaluation.part_segmentation import evaluate_parts


def test_worked_example() -> None:
    """Two objects of kind 0 (parts 0, 1) and one of kind 1 (parts 2, 3), four points each."""
    truth = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0], [2, 3, 3, 3]])
    likeliest = torch.tensor([[0, 1, 1, 1], [0, 0, 0, 0], [3, 3, 3, 2]])
    scores = torch.nn.functional.one_hot(likeliest, 4).double()
    scores[0, 0, 3] = 5  # a part of the other kind does not count, however likely
    data = PointClouds(torch.zeros(3, 4, 6), torch.tensor([0, 0, 1]), ("a", "b"), truth)
    index = iter(range(3))

    def segment(clouds: torch.Tensor) -> torch.Tensor:
        return torch.stack([scores[next(index)] for _ in clouds])

    found = evaluate_parts(segment, data, [(0, 1), (2, 3)], batch=2)
    # Object 0: part 0 has IoU 1/2, part 1 2/3. Object 1: 1, and an absent part, 1. Object 2: part 2 0, part 3 2/4.
    expected = [(1 / 2 + 2 / 3) / 2, 1.0, (0 + 2 / 4) / 2]
    assert found.objects.tolist() == pytest.approx(expected)
    assert found.instance_miou == pytest.approx(sum(expected) / 3)
    assert found.class_miou == pytest.approx(((expected[0] + 1) / 2 + expected[2]) / 2)
    drop, error = found.drop_from(found)
    assert (drop, error) == (0, 0)


def test_clouds_without_parts_are_refused() -> None:
    data = PointClouds(torch.zeros(1, 4, 6), torch.tensor([0]), ("a",))
    with pytest.raises(DataError, match="no labelled points"):
        evaluate_parts(lambda clouds: clouds, data, [(0,)])
