"""What quantizing costs: time against the forward passes that it needs, and memory against the number of images.

Run: python benchmarks/calibration.py [--table speed|memory|large]
Writes: benchmarks/results/calibration.md and .json; tables that are not asked for keep their figures.
Every memory figure is the greatest resident size of a process of its own.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import torch
from accuracy_tasks import deit_tiny, training_images
from torch import Tensor

import qpass
from qpass.backends.onnxruntime.latency import describe_machine
from qpass.models import create_model

RESULTS = Path(__file__).parent / "results"
#: GiB in memory in the runs that show the bound: less than half of what either number of images would take.
BOUND = 0.125
#: Learning at a length that reaches every stage and every store.
SHORT = {"steps": 2, "batch_size": 16}
RECIPES: dict[str, Any] = {
    "w8a8": "w8a8",
    "w4a4": "w4a4",
    "ias-vit-w4a4, 2 steps a block": {"preset": "ias-vit-w4a4", "reconstruction": SHORT},
}
IMAGES = (256, 512)
LARGE, LARGE_IMAGES = "vit_large_patch16_224", 32
_BATCH = 16


def batches(images: int) -> Iterator[Tensor]:
    """Yields calibration images as a loader does: read when they are asked for, and again where there are too few."""
    while images > 0:
        for batch in training_images(_BATCH):
            if images > 0:
                yield batch[:images]
                images -= len(batch)


def speed(rounds: int = 3) -> dict[str, Any]:
    """Times W8A8 of a DeiT-T and the forward passes over the same 128 images, in turn."""
    task = deit_tiny()
    data = task.calibration(128)
    qpass.quantize_graph(task.model, data[:1], "w8a8", progress=False)  # what is done once in a process
    ratios, seconds = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        with torch.no_grad():
            for batch in data:
                task.model(batch)
        forward = time.perf_counter() - start
        start = time.perf_counter()
        qpass.quantize_graph(task.model, data, "w8a8", progress=False)
        seconds.append(time.perf_counter() - start)
        ratios.append(seconds[-1] / forward)
    return {"ratio": statistics.median(ratios), "ratios": ratios, "seconds": seconds, "threads": torch.get_num_threads()}


def peak(model: str, recipe: Any, images: int, max_memory: float) -> dict[str, float]:
    """Quantizes in a process of its own and returns its greatest resident size in GiB, and the seconds it took."""
    arguments = json.dumps({"model": model, "recipe": recipe, "images": images, "max_memory": max_memory})
    command = [sys.executable, "-W", "ignore", __file__, "--one", arguments]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


def one(model: str, recipe: Any, images: int, max_memory: float) -> dict[str, float]:
    """Quantizes in this process and returns its greatest resident size in GiB."""
    network = create_model(model)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    start = time.perf_counter()
    qpass.quantize_graph(network, batches(images), recipe, max_memory=max_memory, progress=False)
    seconds = time.perf_counter() - start
    return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "before": before, "seconds": seconds}


def memory() -> list[dict[str, Any]]:
    """Measures every recipe with so many images and with twice as many."""
    rows = []
    for name, recipe in RECIPES.items():
        few, many = (peak("deit_tiny_patch16_224", recipe, images, BOUND) for images in IMAGES)
        free = peak("deit_tiny_patch16_224", recipe, IMAGES[1], 1e6)
        rows.append({"recipe": name, "few": few, "many": many, "free": free, "growth": many["peak"] / few["peak"] - 1})
        click.echo(str(rows[-1]))
    return rows


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Yields the page."""
    yield "# What quantizing costs"
    yield ""
    yield f"Written by `python benchmarks/calibration.py` on {describe_machine()}."
    yield ""
    if "speed" in found:
        row = found["speed"]
        yield "## Time"
        yield ""
        yield f"DeiT-T at W8A8 with 128 images takes {row['ratio']:.1f} times as long as the network itself needs for these images, tracing and"
        yield f"report included ({', '.join(f'{ratio:.1f}' for ratio in row['ratios'])} in turn, {row['threads']} threads). It reads them once."
        yield ""
    if "memory" in found:
        yield "## Memory"
        yield ""
        yield f"DeiT-T, greatest resident size of the process, GiB; `max_memory={BOUND}` and without a bound. Weights are random."
        yield ""
        yield f"| recipe | {IMAGES[0]} images | {IMAGES[1]} images | growth | {IMAGES[1]} images, no bound |"
        yield "|---|---|---|---|---|"
        for row in found["memory"]:
            cells = [f"{row[key]['peak']:.2f}" for key in ("few", "many")]
            yield f"| {row['recipe']} | {' | '.join(cells)} | {100 * row['growth']:.1f} % | {row['free']['peak']:.2f} |"
        yield ""
    if "large" in found:
        row = found["large"]
        yield "## A large model"
        yield ""
        yield f"{LARGE}, {row['parameters'] / 1e6:.0f} M parameters, random weights, W8A8 with {LARGE_IMAGES} images: {row['peak']:.1f} GiB at most, of which {row['before']:.1f} GiB are there"
        yield f"before quantizing begins; {row['seconds']:.0f} s."


@click.command()
@click.option("--table", "names", multiple=True, type=click.Choice(["speed", "memory", "large"]), help="[default: all]")
@click.option("--one", "arguments", hidden=True)
def main(names: tuple[str, ...], arguments: str | None) -> None:
    """Measure what quantizing costs and write the page."""
    if arguments is not None:
        click.echo(json.dumps(one(**json.loads(arguments))))
        return
    path = RESULTS / "calibration.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in names or ("speed", "memory", "large"):
        if name == "speed":
            found[name] = speed()
        elif name == "memory":
            found[name] = memory()
        else:
            parameters = sum(p.numel() for p in create_model(LARGE).parameters())
            found[name] = peak(LARGE, "w8a8", LARGE_IMAGES, 1.0) | {"parameters": parameters}
        path.write_text(json.dumps(found, indent=1), encoding="utf-8")
        (RESULTS / "calibration.md").write_text("\n".join(lines(found)).rstrip() + "\n", encoding="utf-8")
        click.echo(f"{name}: {found[name]}")


if __name__ == "__main__":
    main()
