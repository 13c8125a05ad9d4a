"""Trains the small part segmenter of the benchmarks from nothing, on solids that are made as it goes.

Run: python benchmarks/train_part_segmenter.py [--minutes 15]
Writes: benchmarks/weights/solids_point_transformer.safetensors (float16) and .json with the minutes and steps.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import solids
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from qpass.point_transformer import PointTransformerSegmentation

WEIGHTS = Path(__file__).parent / "weights" / "solids_point_transformer.safetensors"
#: Clouds of these seeds train; those before evaluate and calibrate.
FIRST_TRAINING_SEED = 1_000_000
_BATCH, _LEARNING_RATE = 16, 2e-3


def small_point_transformer() -> nn.Module:
    """Returns the network, with random weights."""
    parts = sum(len(names) for names in solids.KINDS.values())
    return PointTransformerSegmentation(solids.POINTS, parts, stages=2, neighbours=8)


def train(minutes: float) -> tuple[nn.Module, dict[str, Any]]:
    """Trains until the time is up, the learning rate falling by a cosine over it."""
    torch.manual_seed(0)
    model = small_point_transformer().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=0.01)
    start, step, share = time.perf_counter(), 0, 0.0
    while share < 1:
        for group in optimizer.param_groups:
            group["lr"] = _LEARNING_RATE * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * share))
        made = [solids.make(FIRST_TRAINING_SEED + step * _BATCH + index) for index in range(_BATCH)]
        clouds, labels = (torch.from_numpy(np.stack([sample[side] for sample in made])) for side in (0, 1))
        logits = model(clouds)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step, share = step + 1, (time.perf_counter() - start) / (60 * minutes)
        if step % 100 == 0:
            right = (logits.argmax(-1) == labels).float().mean().item()
            click.echo(f"{step} {100 * share:.0f} % loss {loss.item():.3f} right {100 * right:.1f} %")
    return model.eval(), {"minutes": minutes, "steps": step, "threads": torch.get_num_threads()}


@click.command()
@click.option("--minutes", default=15.0, show_default=True)
def main(minutes: float) -> None:
    """Train and write the weights."""
    model, record = train(minutes)
    WEIGHTS.parent.mkdir(exist_ok=True)
    save_file({n: (v.half() if v.is_floating_point() else v).contiguous() for n, v in model.state_dict().items()}, WEIGHTS)
    record["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    WEIGHTS.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
