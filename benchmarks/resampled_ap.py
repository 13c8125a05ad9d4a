"""Average precision of a detector, and what it is on resamples of the images."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from paired import resamples
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from qpass.evaluation.detection import MASK_THRESHOLD

#: Score -> what it is of, and the IoU that it asks for; None takes the mean over 0.50 to 0.95.
SCORES = {"box AP": ("bbox", None), "box AP50": ("bbox", 0.5), "mask AP": ("segm", None)}


def average_precisions(
    annotations: Path, predictions: Sequence[dict[str, Tensor]]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Returns each of ``SCORES`` in percent, and its values on resamples.

    Args:
        annotations: In COCO's format.
        predictions: Of each image by ascending id, as a torchvision detector gives them.
    """
    with redirect_stdout(StringIO()):
        truth = COCO(str(annotations))
        results = [
            entry for image, found in zip(sorted(truth.imgs), predictions, strict=True) for entry in _entries(image, found)
        ]
        found = truth.loadRes(results) if results else COCO()
        evaluated = {kind: _evaluated(truth, found, kind) for kind in ("bbox", "segm")}
        drawn = resamples(len(truth.imgs))
        scores = {name: _ap(evaluated[kind], iou, np.arange(len(truth.imgs))) for name, (kind, iou) in SCORES.items()}
        again = {name: [_ap(evaluated[kind], iou, one) for one in drawn] for name, (kind, iou) in SCORES.items()}
    return scores, again


def _entries(image: int, found: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Returns the detections of an image in COCO's format of results."""
    boxes, entries = found["boxes"].cpu().double(), []
    masks = (found["masks"].cpu() > MASK_THRESHOLD).squeeze(1).to(torch.uint8).numpy()
    for box, score, label, mask in zip(boxes, found["scores"].tolist(), found["labels"].tolist(), masks, strict=True):
        x, y, right, bottom = box.tolist()
        entries.append({
            "image_id": image, "category_id": label, "score": score, "bbox": [x, y, right - x, bottom - y],
            "segmentation": coco_mask.encode(np.asfortranarray(mask)),
        })  # fmt: skip
    return entries


def _evaluated(truth: COCO, found: COCO, kind: str) -> COCOeval:
    """Matches detections with objects, image by image, at all sizes."""
    matched = COCOeval(truth, found, kind)
    matched.params.areaRng, matched.params.areaRngLbl = matched.params.areaRng[:1], ["all"]
    matched.params.maxDets = [100]
    matched.evaluate()
    return matched


def _ap(matched: COCOeval, iou: float | None, images: np.ndarray) -> float:
    """Returns the average precision, in percent, of images by place, which may repeat."""
    number = len(matched._paramsEval.imgIds)
    whole = matched.evalImgs
    by_class = np.arange(len(whole) // number)[:, None] * number
    matched.evalImgs = [whole[place] for place in (by_class + images).ravel()]
    matched.accumulate()
    matched.evalImgs = whole
    precision = matched.eval["precision"]  # (IoU, recall, class, area, detections)
    if iou is not None:
        precision = precision[np.isclose(matched.params.iouThrs, iou)]
    known = precision[precision > -1]
    return 100 * float(known.mean()) if known.size else 0.0
