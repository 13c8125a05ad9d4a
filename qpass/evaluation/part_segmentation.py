"""Mean intersection over union of part segmentation, as reported for ShapeNetPart.

Paper: PointNet, https://arxiv.org/abs/1612.00593, section 5.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qpass.data.point_clouds import PointClouds
from qpass.errors import DataError
from qpass.evaluation.top1 import paired_drop


@dataclass(frozen=True)
class PartScores:
    """IoU of each object, the mean over the parts of its kind: (objects,) float64.

    A part absent from both prediction and label counts as 1.
    """

    objects: Tensor
    kinds: Tensor

    @property
    def instance_miou(self) -> float:
        """Mean over objects."""
        return self.objects.mean().item()

    @property
    def class_miou(self) -> float:
        """Mean over kinds of the mean over a kind's objects."""
        return torch.stack([self.objects[self.kinds == kind].mean() for kind in self.kinds.unique()]).mean().item()

    def drop_from(self, other: PartScores) -> tuple[float, float]:
        """Returns the mean drop from other scores of the same objects, and its paired standard error."""
        return paired_drop(self.objects, other.objects)


def evaluate_parts(
    segment: Callable[[Tensor], Tensor], data: PointClouds, parts_of: Sequence[Sequence[int]], *, batch: int = 16
) -> PartScores:
    """Scores a segmenter; each point is labelled with the likeliest part of its object's kind.

    Args:
        segment: Maps clouds (batch, points, 6) to scores (batch, points, parts).
        data: Objects with part labels.
        parts_of: The parts of each kind.
        batch: Objects per call.

    Raises:
        DataError: If there are no objects, or they have no part labels.
    """
    if data.parts is None or not len(data):
        raise DataError("no labelled points", where="evaluate", expected="what open_shapenet_part returns")
    scores = []
    with torch.no_grad():
        columns = (data.clouds, data.parts, data.kinds)
        for clouds, truth, kinds in zip(*(column.split(batch) for column in columns), strict=True):
            logits = segment(clouds).cpu()
            for own, wanted, kind in zip(logits, truth, kinds, strict=True):
                parts = torch.tensor(parts_of[int(kind)])
                found = parts[own[:, parts].argmax(1)]
                scores.append(torch.stack([_iou(found == part, wanted == part) for part in parts]).mean())
    return PartScores(torch.stack(scores), data.kinds)


def _iou(found: Tensor, wanted: Tensor) -> Tensor:
    union = (found | wanted).sum().double()
    return torch.ones_like(union) if union == 0 else (found & wanted).sum() / union
