"""Trains the small detector and instance segmenter of the benchmarks from nothing, on shapes that are drawn as it goes.

Run: python benchmarks/train_detector.py [--minutes 20]
Writes: benchmarks/weights/shapes_mask_rcnn.safetensors (float16) and .json with the minutes, steps and AP of the float network.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import shapes
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models.detection import MaskRCNN

from qpass.detectors import mask_rcnn

WEIGHTS = Path(__file__).parent / "weights" / "shapes_mask_rcnn.safetensors"
#: Images of these seeds train; those before evaluate and calibrate.
FIRST_TRAINING_SEED = 1_000_000
_BATCH, _LEARNING_RATE = 8, 1e-3


def small_mask_rcnn() -> MaskRCNN:
    """Returns the network, with random weights: a Swin of three stages, 1 M parameters in all."""
    return mask_rcnn(
        classes=1 + len(shapes.CLASSES), size=shapes.SIZE, channels=48, hidden=128, mask_layers=(48, 48), anchor=4,
        backbone_options={
            "window_size": 6, "embed_dim": 32, "depths": (2, 2, 2), "num_heads": (1, 2, 4), "out_indices": (0, 1, 2),
        },
        rpn_pre_nms_top_n_train=300, rpn_post_nms_top_n_train=150, rpn_batch_size_per_image=64, box_batch_size_per_image=32,
        rpn_pre_nms_top_n_test=300, rpn_post_nms_top_n_test=100, box_detections_per_img=20,
    )  # fmt: skip


def sample(seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns an image (3, SIZE, SIZE) in 0..1 and its target as torchvision's detectors take it; seeds without objects are skipped."""
    pixels, objects = shapes.draw(seed)
    if not objects:
        return sample(seed + 500_000_000)
    masks = np.stack([thing["mask"] for thing in objects])
    boxes = [[x.min(), y.min(), x.max() + 1, y.max() + 1] for y, x in (np.nonzero(mask) for mask in masks)]
    target = {
        "boxes": torch.tensor(np.array(boxes), dtype=torch.float32),
        "labels": torch.tensor([thing["class"] + 1 for thing in objects]),
        "masks": torch.from_numpy(masks.astype(np.uint8)),
    }
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255, target


def train(minutes: float) -> tuple[MaskRCNN, dict[str, Any]]:
    """Trains until the time is up, the learning rate falling by a cosine over it."""
    torch.manual_seed(0)
    model = small_mask_rcnn().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=0.05)
    start, step, share = time.perf_counter(), 0, 0.0
    while share < 1:
        for group in optimizer.param_groups:
            group["lr"] = _LEARNING_RATE * min(1, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * share))
        pairs = [sample(FIRST_TRAINING_SEED + step * _BATCH + index) for index in range(_BATCH)]
        losses = model([image for image, _ in pairs], [target for _, target in pairs])
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step, share = step + 1, (time.perf_counter() - start) / (60 * minutes)
        if step % 100 == 0:
            click.echo(
                f"{step} {100 * share:.0f} % " + " ".join(f"{name} {value.item():.3f}" for name, value in losses.items())
            )
    return model.eval(), {"minutes": minutes, "steps": step, "threads": torch.get_num_threads()}


@click.command()
@click.option("--minutes", default=20.0, show_default=True)
def main(minutes: float) -> None:
    """Train and write the weights."""
    model, record = train(minutes)
    WEIGHTS.parent.mkdir(exist_ok=True)
    state = {name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()}
    save_file({name: value.contiguous() for name, value in state.items()}, WEIGHTS)
    record["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    WEIGHTS.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
