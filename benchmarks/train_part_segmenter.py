"""Trains the small part segmenter of the benchmarks from nothing, on solids that are made as it goes.

Run: python benchmarks/train_part_segmenter.py [--minutes 15]
Writes: benchmarks/weights/solids_point_transformer.safetensors (float16) and .json with the minutes
and steps.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import solids
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from training import train, write_weights

from qpass.zoo.point_transformer import PointTransformerSegmentation

WEIGHTS = Path(__file__).parent / "weights" / "solids_point_transformer.safetensors"


def small_point_transformer() -> nn.Module:
    """Returns the network, with random weights."""
    parts = sum(len(names) for names in solids.KINDS.values())
    return PointTransformerSegmentation(solids.POINTS, parts, stages=2, neighbours=8)


@click.command()
@click.option("--minutes", default=15.0, show_default=True)
def main(minutes: float) -> None:
    """Train and write the weights."""
    torch.manual_seed(0)
    model = small_point_transformer()

    def losses_of(seeds: range) -> dict[str, Tensor]:
        made = [solids.make(seed) for seed in seeds]
        clouds, labels = (torch.from_numpy(np.stack([sample[side] for sample in made])) for side in (0, 1))
        return {"loss": F.cross_entropy(model(clouds).flatten(0, 1), labels.flatten())}

    record = train(model, losses_of, minutes=minutes, batch=16, learning_rate=2e-3, weight_decay=0.01, warm_up=100)
    write_weights(model, record, WEIGHTS)


if __name__ == "__main__":
    main()
