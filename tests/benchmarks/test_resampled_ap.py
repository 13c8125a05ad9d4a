"""Average precision of resampled images, against that of datasets of these images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import resampled_ap
import shapes
import torch
from paired import resamples
from resampled_ap import average_precisions
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from qpass.data import CocoImages


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampled_ap, "resamples", lambda images: resamples(images)[:3])


@pytest.fixture(scope="module")
def detected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Tensor]]]:
    """Annotations of 12 images, and detections that are somewhat off, some of the wrong class."""
    folder = shapes.write_coco(tmp_path_factory.mktemp("coco"), 12, seed=7)
    draw, found = torch.Generator().manual_seed(0), []
    for index, (_, target) in enumerate(CocoImages(folder)):
        boxes = target["boxes"] + 2.5 * torch.randn(target["boxes"].shape, generator=draw)
        boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        labels = target["labels"].clone()
        labels[: index % 2] = labels[: index % 2] % 5 + 1
        masks = target["masks"].roll(1, -1)[:, None].float()
        found.append({"boxes": boxes, "scores": torch.rand(len(boxes), generator=draw), "labels": labels, "masks": masks})
    return folder / "instances.json", found


def test_all_images_have_the_scores_that_torchmetrics_gives(detected: tuple[Path, list[dict[str, Tensor]]]) -> None:
    """With thresholds as pycocotools has them: its own are float32, and move points of the curve."""
    annotations, found = detected
    scores, _ = average_precisions(annotations, found)
    ious, recalls = (np.linspace(*ends).tolist() for ends in ((0.5, 0.95, 10), (0.0, 1.0, 101)))
    metric = MeanAveragePrecision(iou_type=("bbox", "segm"), iou_thresholds=ious, rec_thresholds=recalls)
    images = CocoImages(annotations.parent)
    truth = [images[i][1] | {"masks": images[i][1]["masks"].bool()} for i in range(len(images))]
    metric.update([one | {"masks": one["masks"].squeeze(1).bool()} for one in found], truth)
    wanted = metric.compute()
    assert list(scores.values()) == pytest.approx(
        [100 * wanted[name].item() for name in ("bbox_map", "bbox_map_50", "segm_map")]
    )


def test_a_resample_has_the_scores_of_a_dataset_of_these_images(
    detected: tuple[Path, list[dict[str, Tensor]]], tmp_path: Path
) -> None:
    annotations, found = detected
    _, again = average_precisions(annotations, found)
    content = json.loads(annotations.read_text(encoding="utf-8"))
    for number, drawn in enumerate(resamples(12)[:3]):
        repeated = {"categories": content["categories"], "images": [], "annotations": []}
        for place, source in enumerate(drawn.tolist()):
            repeated["images"].append(content["images"][source] | {"id": place})
            own = [one for one in content["annotations"] if one["image_id"] == source]
            repeated["annotations"] += [one | {"image_id": place, "id": 1000 * place + one["id"]} for one in own]
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(repeated), encoding="utf-8")
        wanted, _ = average_precisions(path, [found[i] for i in drawn])
        assert {name: values[number] for name, values in again.items()} == pytest.approx(wanted)
    assert np.std(again["box AP"]) > 0.5
