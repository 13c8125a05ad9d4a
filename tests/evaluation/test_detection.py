from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qpass.errors import DataError
from qpass.evaluation.detection import evaluate_detection


def target(boxes: list[list[float]], labels: list[int]) -> dict[str, Tensor]:
    masks = torch.zeros(len(boxes), 40, 40, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[int(y1) : int(y2), int(x1) : int(x2)] = 1
    return {"boxes": torch.tensor(boxes), "labels": torch.tensor(labels), "masks": masks}


SAMPLES = [
    (torch.zeros(3, 40, 40), target([[2.0, 2.0, 12.0, 12.0], [20.0, 20.0, 38.0, 38.0]], [1, 2])),
    (torch.zeros(3, 40, 40), target([[5.0, 5.0, 25.0, 25.0]], [1])),
]


def answers(*, masks: bool, label: int | None = None, shift: float = 0) -> object:
    truths = iter(truth for _, truth in SAMPLES)

    def detect(images: list[Tensor]) -> list[dict[str, Tensor]]:
        found = []
        for _ in images:
            truth = next(truths)
            labels = truth["labels"] if label is None else torch.full_like(truth["labels"], label)
            result = {"boxes": truth["boxes"] + shift, "labels": labels, "scores": torch.ones(len(labels))}
            found.append(result | ({"masks": truth["masks"][:, None].float() * 0.8} if masks else {}))
        return found

    return detect


def test_the_truth_scores_one() -> None:
    scores = evaluate_detection(answers(masks=True), SAMPLES, batch=1)  # type: ignore[arg-type]
    assert (scores.box_ap, scores.box_ap50, scores.mask_ap, scores.mask_ap50) == pytest.approx((1, 1, 1, 1))


def test_boxes_alone_and_a_little_off() -> None:
    scores = evaluate_detection(answers(masks=False, shift=1.0), SAMPLES)  # type: ignore[arg-type]
    assert scores.mask_ap is None
    # IoU of a box of side a moved by (1, 1) is (a-1)^2 / (2 a^2 - (a-1)^2): .68 at 10, .80 at 18, .82 at 20.
    assert scores.box_ap50 == pytest.approx(1)
    assert 0.5 < scores.box_ap < 0.75


def test_wrong_classes_score_nothing() -> None:
    scores = evaluate_detection(answers(masks=True, label=3), SAMPLES)  # type: ignore[arg-type]
    assert scores.box_ap == pytest.approx(0)


def test_no_samples() -> None:
    with pytest.raises(DataError, match="no samples"):
        evaluate_detection(lambda images: [], [])
