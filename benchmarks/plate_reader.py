"""A reader of licence plates: convolutional stem, DyT, learned queries that cross-attend."""

from __future__ import annotations

import csv

import torch
from assets import assets
from task import Network, Predict, Task, asset_module, zipped_images

from qpass.data import draw_samples

_CALIBRATION, _BATCH = 128, 64


def plate_reader() -> Task:
    """CCT-XS of fast-plate-ocr; whole plates that are read without a mistake."""
    module = asset_module("cct_xs_plate_ocr")
    archive = assets() / "plates1081"
    with (archive / "labels.csv").open(encoding="utf-8") as file:
        texts = {row["file"]: row["text"] for row in csv.DictReader(file)}
    crops = zipped_images(archive / "images.zip", lambda image: module.preprocess(image)[0])
    order = draw_samples([0] * len(crops), seed=0)
    evaluated = crops.take(order[_CALIBRATION:])

    def score(predict: Predict) -> list[float]:
        read: list[str] = []
        with torch.no_grad():
            for start in range(0, len(evaluated), _BATCH):
                part = range(start, min(start + _BATCH, len(evaluated)))
                read += module.decode(predict(torch.stack([evaluated.load(i) for i in part])))
        return [100.0 * (texts[name] == text) for name, text in zip(evaluated.names, read, strict=True)]

    return Task(
        model=module.load(str(assets() / "cct_xs_plate_ocr")),
        pool=crops.take(order[:_CALIBRATION]),
        counts=(_CALIBRATION, _CALIBRATION),
        batch=32,
        score=score,
    )


PLATE_READER = Network(
    title="Plate reader",
    score="exact text",
    unit="%",
    description=f"CCT-XS, a reader of licence plates (0.36 M parameters; conv stem, DyT, cross-attention of 9 queries), calibrated on {_CALIBRATION} of\n"
    "1,081 crops and evaluated on the others: plates whose whole text is right.",
    modules=("plate_reader.py", "task.py"),
    load=plate_reader,
)
