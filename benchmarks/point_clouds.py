"""The Point Transformer of ModelNet40: its logits against float's, and perturbed objects.

Two of the 40 classes separate nothing by their top-1: every method keeps it. On perturbed objects
float errs too.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from accuracy_tasks import in_memory, top1_of
from assets import assets
from task import Network, Predict, Task, decibels
from torch import Tensor

from qpass.zoo.timm_models import create_model

#: Every fifth object calibrates (no training object is at hand), and the others evaluate.
_EVERY_FIFTH = 5
#: Perturbed copies of each object; jitter and tilt in standard deviations (of the radius, in
#: radians); share of points that are dropped. Chosen by float alone, which is right on 70 to 90 %.
_COPIES, _JITTER, _TILT, _DROPPED = 4, 0.01, 0.05, 0.2
_BATCH = 20


def _objects() -> tuple[Tensor, Tensor]:
    data = np.load(assets() / "modelnet40_air_bath_test" / "test150_1024x6.npz")
    return torch.from_numpy(data["x"]), torch.from_numpy(data["y"])


def _task(score_of: type[_Logits] | type[_Perturbed], *, scored_in_torch: bool = True) -> Task:
    objects, labels = _objects()
    evaluates = torch.arange(len(objects)) % _EVERY_FIFTH != 0
    calibrates = (~evaluates).nonzero().flatten().tolist()
    weights = assets() / "point_transformer_modelnet40" / "model.safetensors"
    model = create_model("qpass.zoo.point_transformer:PointTransformer", weights)
    return Task(
        model=model,
        pool=in_memory("modelnet40_air_bath_test", objects, labels, calibrates),
        counts=(len(calibrates), len(calibrates)),
        batch=10,
        score=score_of(model, objects[evaluates], labels[evaluates]),
        scored_in_torch=scored_in_torch,
    )


class _Logits:
    """Scores each object by the power of float's logits over that of the difference."""

    def __init__(self, model: Predict, objects: Tensor, _: Tensor) -> None:
        self.objects, self.wanted = objects, _all(model, objects)

    def __call__(self, predict: Predict) -> list[float]:
        found = _all(predict, self.objects)
        return [decibels(one, other) for one, other in zip(self.wanted, found, strict=True)]


class _Perturbed:
    """Scores perturbed copies of each object: 100 where the class is right."""

    def __init__(self, _: Predict, objects: Tensor, labels: Tensor) -> None:
        generator = torch.Generator().manual_seed(0)
        clouds = torch.cat([perturbed(objects, generator) for _ in range(_COPIES)])
        self._score = top1_of(lambda: zip(clouds.split(_BATCH), labels.repeat(_COPIES).split(_BATCH), strict=True))

    def __call__(self, predict: Predict) -> list[float]:
        return self._score(predict)


def _all(predict: Predict, objects: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([predict(batch) for batch in objects.split(_BATCH)])


def perturbed(objects: Tensor, generator: torch.Generator) -> Tensor:
    """Returns clouds turned about the vertical, tilted, jittered, with points that repeat others.

    Args:
        objects: (objects, points, 6): places and normals.
        generator: Random generator.
    """
    count, points, _ = objects.shape
    angles = [(torch.rand(count, generator=generator) * 2 - 1) * math.pi]
    angles += [torch.randn(count, generator=generator) * _TILT for _ in range(2)]
    turn = _rotation(angles[0], 0, 2) @ _rotation(angles[1], 0, 1) @ _rotation(angles[2], 1, 2)
    places, normals = (part @ turn.transpose(1, 2) for part in objects.split(3, -1))
    places = places + torch.randn(places.shape, generator=generator) * _JITTER
    kept = round(points * (1 - _DROPPED))
    order = torch.stack([torch.randperm(points, generator=generator) for _ in range(count)])
    repeated = torch.randint(kept, (count, points - kept), generator=generator)
    chosen = torch.cat([order[:, :kept], order.gather(1, repeated)], 1)
    return torch.cat([places, normals], -1).gather(1, chosen[..., None].expand(-1, -1, 6))


def _rotation(angle: Tensor, i: int, j: int) -> Tensor:
    """Returns rotations (n, 3, 3) in the plane of two axes."""
    turn = torch.eye(3).repeat(len(angle), 1, 1)
    turn[:, i, i] = turn[:, j, j] = angle.cos()
    turn[:, i, j], turn[:, j, i] = -angle.sin(), angle.sin()
    return turn


_DESCRIPTION = (
    "Point Transformer (ModelNet40, 0.94 M parameters) on 150 test objects of two of its 40 classes: every fifth calibrates, the others\n"
    "evaluate. Its Softmax weighs channels and goes into no matmul: published methods quantize it, `wXaY` leaves it float."
)
_MODULES = ("point_clouds.py", "accuracy_tasks.py", "task.py")

MODELNET40 = Network(
    title="Point Transformer",
    score="40 logits against float's",
    unit="dB",
    description=f"{_DESCRIPTION} All classes of objects as they are\nstay float's, so their 40 logits are compared.",
    modules=_MODULES,
    load=lambda: _task(_Logits),
    against_float=True,
)

PERTURBED = Network(
    title="Point Transformer, perturbed",
    score="top-1",
    unit="%",
    description=f"The same network and calibration. {_COPIES} copies of each object, turned at random about the vertical, tilted by {_TILT} radians,\n"
    f"jittered by {_JITTER} of the radius (standard deviations), {100 * _DROPPED:.0f} % of the points replaced by others: there float errs too.",
    modules=_MODULES,
    load=lambda: _task(_Perturbed, scored_in_torch=False),
)
