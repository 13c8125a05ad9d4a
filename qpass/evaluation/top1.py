"""Top-1 accuracy of anything that maps images to class scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path

from qpass.errors import DataError


@dataclass(frozen=True)
class Accuracy:
    """Whether each sample was classified correctly.

    Attributes:
        correct: For each sample: (n,) bool.
        classes: Number of class scores; 0 if unknown.
    """

    correct: Tensor
    classes: int = 0

    @property
    def top1(self) -> float:
        """Share of samples whose highest score is their label's."""
        return self.correct.double().mean().item()

    @property
    def standard_error(self) -> float:
        """Standard error of ``top1``."""
        return (self.top1 * (1 - self.top1) / len(self.correct)) ** 0.5

    def drop_from(self, other: Accuracy) -> tuple[float, float]:
        """Returns the drop from another accuracy on the same samples, and its paired standard error."""
        return paired_drop(self.correct.double(), other.correct.double())


def paired_drop(scores: Tensor, others: Tensor) -> tuple[float, float]:
    """Returns the mean drop of scores from others of the same samples, and its paired standard error."""
    difference = others - scores
    return difference.mean().item(), (difference.std(correction=0) / len(difference) ** 0.5).item()


def evaluate_top1(predict: Callable[[Tensor], Any], batches: Iterable[tuple[Tensor, Tensor | None]]) -> Accuracy:
    """Returns the accuracy over all batches, of which it holds one at a time.

    Args:
        predict: Maps images (batch, ...) to scores (batch, classes), or to outputs that ``scores_of``
            accepts.
        batches: (images, labels) pairs.

    Raises:
        DataError: If there are no batches, a batch has no labels, or labels and scores do not match.
    """
    return evaluate_together({"evaluate": predict}, batches)["evaluate"]


def evaluate_together(
    predictors: Mapping[str, Callable[[Tensor], Any]], batches: Iterable[tuple[Tensor, Tensor | None]]
) -> dict[str, Accuracy]:
    """Evaluates several predictors in one pass over the batches; see ``evaluate_top1``."""
    correct: dict[str, list[Tensor]] = {name: [] for name in predictors}
    classes = dict[str, int]()
    with torch.no_grad():
        for images, labels in batches:
            if labels is None:
                raise DataError("the data has no labels", where="evaluate", expected="labels.csv, an ImageFolder, or y in .npz")
            for name, predict in predictors.items():
                scores = scores_of(predict(images), name)
                correct[name].append(correct_classes(scores, labels, name))
                classes[name] = scores.shape[1]
    if not all(correct.values()):
        raise DataError("no samples", where="evaluate")
    return {name: Accuracy(torch.cat(parts), classes[name]) for name, parts in correct.items()}


def filled_up(part: Tensor, rows: int) -> Tensor:
    """Returns a chunk of at least one row, filled up to ``rows`` with its first."""
    return torch.cat([part, part[:1].expand(rows - len(part), *part.shape[1:])]) if len(part) < rows else part


def in_batches_of(rows: int, predict: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    """Returns a predictor of class scores for batches of any size, from one that takes ``rows`` images.

    The last chunk of a batch is padded with its first image; the scores of the padding are dropped.
    """

    def scores(images: Tensor) -> Tensor:
        found = []
        for part in images.split(rows):
            found.append(scores_of(predict(filled_up(part, rows)))[: len(part)])
        return torch.cat(found)

    return scores


def correct_classes(outputs: Any, labels: Tensor, where: str) -> Tensor:
    """Returns for each sample whether its highest score is its label's: (batch,) bool, on the CPU.

    Raises:
        DataError: If outputs hold no class scores (see ``scores_of``), or labels and scores do not
            match.
    """
    scores = scores_of(outputs, where)
    if len(scores) != len(labels):
        raise DataError(f"{len(scores)} rows of scores", where=where, expected=f"one for each of {len(labels)} images")
    if int(labels.max()) >= scores.shape[1]:
        raise DataError(
            f"the label {int(labels.max())}", where=where, expected=f"labels below {scores.shape[1]}, the number of scores"
        )
    return scores.argmax(1).cpu() == labels.cpu()


def scores_of(outputs: Any, where: str = "evaluate") -> Tensor:
    """Returns the class scores (batch, classes) among a model's outputs.

    These are the outputs themselves if they are one tensor, the entry or attribute ``logits``, or else
    the only 2-D tensor.

    Raises:
        DataError: Naming the outputs, if none of these exists.
    """
    named = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    found = {keystr(path) or "output": leaf for path, leaf in tree_flatten_with_path(outputs)[0] if isinstance(leaf, Tensor)}
    flat = {"logits": named} if isinstance(named, Tensor) else found
    scores = [leaf for leaf in flat.values() if leaf.dim() == 2 and leaf.shape[1]]
    if len(scores) == 1:
        return scores[0]
    shapes = ", ".join(f"{name} {tuple(leaf.shape)}" for name, leaf in flat.items()) or f"a {type(outputs).__name__}"
    raise DataError(
        f"cannot tell the class scores among the outputs {shapes}",
        where=where,
        expected="one output of shape (batch, classes), or one called 'logits'",
        hint="qpass.evaluation.top1.evaluate_top1 takes a function that picks them",
    )
