"""Top-1 accuracy of anything that maps images to class scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from qpass.errors import DataError


@dataclass(frozen=True)
class Accuracy:
    """Which samples were right: (n,) bool."""

    correct: Tensor

    @property
    def top1(self) -> float:
        """Share of samples whose greatest score is their label's."""
        return self.correct.double().mean().item()

    @property
    def standard_error(self) -> float:
        """Standard error of ``top1``."""
        return (self.top1 * (1 - self.top1) / len(self.correct)) ** 0.5

    def drop_from(self, other: Accuracy) -> tuple[float, float]:
        """Returns how far this lies below another on the same samples, and the paired standard error of that."""
        return paired_drop(self.correct.double(), other.correct.double())


def paired_drop(scores: Tensor, others: Tensor) -> tuple[float, float]:
    """Returns how far scores lie below others of the same samples in the mean, and the paired standard error of that."""
    difference = others - scores
    return difference.mean().item(), (difference.std(correction=0) / len(difference) ** 0.5).item()


def evaluate_top1(predict: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor | None]]) -> Accuracy:
    """Runs every batch.

    Args:
        predict: Images (batch, ...) to scores (batch, classes).
        batches: (images, labels) pairs.

    Raises:
        DataError: If there are no batches, or a batch has no labels.
    """
    correct: list[Tensor] = []
    with torch.no_grad():
        for images, labels in batches:
            if labels is None:
                raise DataError("the data has no labels", where="evaluate", expected="labels.csv, an ImageFolder, or y in .npz")
            correct.append(predict(images).argmax(1).cpu() == labels)
    if not correct:
        raise DataError("no samples", where="evaluate")
    return Accuracy(torch.cat(correct))
