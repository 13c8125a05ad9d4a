"""Average precision of detectors and instance segmenters, by torchmetrics and pycocotools."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qpass.errors import DataError
from qpass.runtime.extras import from_extra

#: Pixels whose value in a predicted mask is above this belong to the object.
MASK_THRESHOLD = 0.5

_Sample = tuple[Tensor, dict[str, Tensor]]


@dataclass(frozen=True)
class DetectionScores:
    """COCO scores in 0..1.

    Attributes:
        box_ap: AP of boxes, mean over IoU 0.50 to 0.95.
        box_ap50: At IoU 0.50.
        mask_ap: AP of masks, or None for a detector without masks.
        mask_ap50: At IoU 0.50, or None.
    """

    box_ap: float
    box_ap50: float
    mask_ap: float | None = None
    mask_ap50: float | None = None


def evaluate_detection(
    detect: Callable[[list[Tensor]], Sequence[dict[str, Tensor]]],
    samples: Iterable[_Sample],
    *,
    batch: int = 8,
) -> DetectionScores:
    """Evaluates a detector on images with targets.

    Args:
        detect: Maps a list of images (3, H, W) to a list of dicts: ``boxes`` (n, 4) as x1 y1 x2 y2,
            ``scores`` and ``labels`` (n,), and optionally ``masks`` (n, 1, H, W) in 0..1.
        samples: (image, target) pairs, as in ``CocoImages``.
        batch: Images per call.

    Raises:
        DataError: If there are no samples, or torchmetrics or pycocotools are not installed.
    """
    with from_extra("detection", "evaluate"):
        from torchmetrics.detection import MeanAveragePrecision
    metric: Any = None
    kinds: tuple[str, ...] = ()
    with torch.no_grad():
        for pairs in _batches(samples, batch):
            found = [_prediction(result) for result in detect([image for image, _ in pairs])]
            if metric is None:
                kinds = ("bbox", "segm") if "masks" in found[0] else ("bbox",)
                metric = MeanAveragePrecision(iou_type=kinds, backend="pycocotools")
            metric.update(found, [_truth(target, "segm" in kinds) for _, target in pairs])
    if metric is None:
        raise DataError("no samples", where="evaluate")
    scores = {name: float(value) for name, value in metric.compute().items() if value.numel() == 1}
    if "segm" not in kinds:
        return DetectionScores(scores["map"], scores["map_50"])
    return DetectionScores(*(scores[name] for name in ("bbox_map", "bbox_map_50", "segm_map", "segm_map_50")))


def _batches(samples: Iterable[_Sample], size: int) -> Iterator[list[_Sample]]:
    batch: list[_Sample] = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _prediction(result: dict[str, Tensor]) -> dict[str, Tensor]:
    kept = {name: result[name].cpu() for name in ("boxes", "scores", "labels")}
    if "masks" in result:
        kept["masks"] = (result["masks"].cpu() > MASK_THRESHOLD).squeeze(1)
    return kept


def _truth(target: dict[str, Tensor], masks: bool) -> dict[str, Tensor]:
    names = ("boxes", "labels", "iscrowd", *(("masks",) if masks else ()))
    kept = {name: target[name].cpu() for name in names if name in target}
    if masks:
        kept["masks"] = kept["masks"].bool()
    return kept
