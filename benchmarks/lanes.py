"""LSTR finds lanes: a DETR of 7 queries behind a small ResNet, post-norm, ReLU."""

from __future__ import annotations

import numpy as np
import torch
from assets import assets
from PIL import Image
from task import Network, Predict, Task, asset_module, decibels
from torch import Tensor

from qpass.data.image_source import ImageSource

#: Places along a lane where its course is compared, and how far beyond the image a point may lie,
#: in widths of it.
_PLACES, _BEYOND = 32, 0.5
_CALIBRATES = ("test0.jpg", "test1.jpg", "test2.jpg", "test3.jpg")
_EVALUATES = ("0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg")


def lstr() -> Task:
    """LSTR on road images of TuSimple and their mirror images: courses of lanes against float's."""
    module = asset_module("lstr_tusimple")
    model = module.load(str(assets() / "lstr_tusimple"))
    calibrates, evaluated = (_images(module, names) for names in (_CALIBRATES, _EVALUATES))
    images = torch.stack([evaluated.load(i) for i in range(len(evaluated))])
    with torch.no_grad():
        wanted = model(images)

    def score(predict: Predict) -> list[float]:
        with torch.no_grad():
            found = predict(images)
        return [against_float(*(part[i] for part in (*wanted, *found))) for i in range(len(images))]

    return Task(
        model=model,
        pool=calibrates,
        counts=(len(calibrates), len(calibrates)),
        batch=4,
        score=score,
        verified=2,
    )


LSTR = Network(
    title="LSTR",
    score="lanes against float's",
    unit="dB",
    description=f"LSTR (lane detection, 0.77 M parameters; a DETR of 7 queries, post-norm), calibrated on {len(_CALIBRATES)} road images and evaluated on {len(_EVALUATES)} others,\n"
    "each of them mirrored too: the power of the courses of float's lanes over that of the difference. A lane that is not found counts as one at\n"
    "the left edge.",
    modules=("lanes.py", "task.py"),
    load=lstr,
    against_float=True,
)


def _images(module: object, names: tuple[str, ...]) -> ImageSource:
    """Returns images and then their mirror images."""

    def load(i: int) -> Tensor:
        pixels = np.asarray(Image.open(assets() / "tusimple_mini" / names[i % len(names)]).convert("RGB"))
        image: Tensor = module.preprocess(pixels[..., ::-1])[0]  # type: ignore[attr-defined]  # it wants BGR
        return image.flip(-1) if i >= len(names) else image

    return ImageSource("tusimple_mini", [*names, *(f"{name}, mirrored" for name in names)], None, load)


def against_float(logits: Tensor, curves: Tensor, found_logits: Tensor, found_curves: Tensor) -> float:
    """Returns how close the lanes of one image come to float's, in dB."""
    lanes = logits.argmax(-1) == 1
    lower, upper = curves[lanes, 0, None], curves[lanes, 1, None]
    ys = lower + (upper - lower) * torch.linspace(0, 1, _PLACES)
    courses = course(curves[lanes], ys)
    seen = (found_logits[lanes].argmax(-1) == 1)[:, None]
    return decibels(courses, torch.where(seen, course(found_curves[lanes], ys), 0.0))


def course(curves: Tensor, ys: Tensor) -> Tensor:
    """Returns where lanes (n, 8) are at heights (n, places), 0 to 1 from left to right."""
    k, f, m, n, b1, b2 = (curves[:, i, None] for i in range(2, 8))
    x = k / (ys - f) ** 2 + m / (ys - f) + n + b1 * ys - b2
    return x.nan_to_num(1 + _BEYOND).clamp(-_BEYOND, 1 + _BEYOND)
