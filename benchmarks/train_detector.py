"""Trains the small detector and instance segmenter of the benchmarks, on shapes drawn as it goes.

Run: python benchmarks/train_detector.py [--minutes 20]
Writes: benchmarks/weights/shapes_mask_rcnn.safetensors (float16) and .json with the minutes, steps
and AP of the float network.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import shapes
import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN
from training import train, write_weights

from qpass.zoo.mask_rcnn import mask_rcnn

WEIGHTS = Path(__file__).parent / "weights" / "shapes_mask_rcnn.safetensors"


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
    """Returns an image (3, SIZE, SIZE) in 0..1 and its target for torchvision's detectors.

    Seeds without objects are skipped.
    """
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


@click.command()
@click.option("--minutes", default=20.0, show_default=True)
def main(minutes: float) -> None:
    """Train and write the weights."""
    torch.manual_seed(0)
    model = small_mask_rcnn()

    def losses_of(seeds: range) -> dict[str, Tensor]:
        pairs = [sample(seed) for seed in seeds]
        return model([image for image, _ in pairs], [target for _, target in pairs])

    record = train(model, losses_of, minutes=minutes, batch=8, learning_rate=1e-3, weight_decay=0.05, warm_up=200)
    write_weights(model, record, WEIGHTS)


if __name__ == "__main__":
    main()
