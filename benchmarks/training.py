"""Trains the small networks of the benchmarks, and writes their weights with a record of how."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

#: Samples of these seeds train; those before evaluate and calibrate.
FIRST_TRAINING_SEED = 1_000_000


def train(
    model: nn.Module,
    losses_of: Callable[[range], Mapping[str, Tensor]],
    *,
    minutes: float,
    batch: int,
    learning_rate: float,
    weight_decay: float,
    warm_up: int,
) -> dict[str, Any]:
    """Trains until the time is up, the learning rate falling by a cosine over it; returns the record.

    Args:
        model: Left in eval mode.
        losses_of: The losses of new samples, by name, from their seeds; their sum is learned.
        minutes: How long.
        batch: Seeds in a step.
        learning_rate: Of AdamW, at its greatest.
        weight_decay: Of AdamW.
        warm_up: Steps until the learning rate is there.
    """
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    start, step, share = time.perf_counter(), 0, 0.0
    while share < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * share))
        first = FIRST_TRAINING_SEED + step * batch
        losses = losses_of(range(first, first + batch))
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step, share = step + 1, (time.perf_counter() - start) / (60 * minutes)
        if step % 100 == 0:
            click.echo(f"{step} {100 * share:.0f} % " + " ".join(f"{name} {loss.item():.3f}" for name, loss in losses.items()))
    model.eval()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"minutes": minutes, "steps": step, "threads": torch.get_num_threads(), "parameters": parameters}


def write_weights(model: nn.Module, record: Mapping[str, Any], path: Path) -> None:
    """Writes weights as float16, and the record beside them."""
    path.parent.mkdir(exist_ok=True)
    state = {name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()}
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    path.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
