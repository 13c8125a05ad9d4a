"""What quantizing costs: time in forward passes, memory by number of images, several processes.

Run: python benchmarks/calibration.py
    [--table speed|memory|networks|large|large-mixed-w4a5|processes] [--row "NGswin x2, w8a8"]
Writes: benchmarks/results/calibration.md and .json, after every row; tables that are not asked for
keep their figures. Every memory figure is the greatest resident size of a process of its own.
"""

from __future__ import annotations

import itertools
import json
import pickle
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from accuracy_tasks import deit_tiny, deit_tiny_model, training_images
from light_glue import light_glue, pairs
from provenance import commit
from super_resolution import ngswin_model
from torch import Tensor

import qpass
from qpass.backends.onnxruntime.latency import describe_machine
from qpass.runtime.distributed import Processes, job
from qpass.zoo.timm_models import create_model

RESULTS = Path(__file__).parent / "results"
#: GiB in memory in the runs that show the bound: less than half of what the images would take.
BOUND = 0.125
#: Learning at a length that reaches every stage and every store.
SHORT = {"steps": 2, "batch_size": 16}
RECIPES: dict[str, Any] = {
    "w8a8": "w8a8",
    "mixed-w4a5": "mixed-w4a5",
    "ias-vit-w4a4, 2 steps a block": {"preset": "ias-vit-w4a4", "reconstruction": SHORT},
}
IMAGES = (256, 512)
#: What several processes share, and for how long blocks are learned.
SHARED: dict[str, Any] = {
    "mixed-w4a5": "mixed-w4a5",
    "ias-vit-w4a4, 20 steps a block": {"preset": "ias-vit-w4a4", "reconstruction": {"steps": 20, "batch_size": 32}},
}
SHARED_IMAGES = 128
LARGE, LARGE_IMAGES = "vit_large_patch16_224", 32
LARGE_TABLES = {"large": "w8a8", "large-mixed-w4a5": "mixed-w4a5"}
#: Networks whose values between layers are many times their weights: what a call of them takes, and
#: how many calls calibrate.
PAIRS, POINTS, CROPS, CROP_SIZE = 8, 512, 8, 128
#: GiB in memory for these.
NETWORK_BOUND = 1.0
_BATCH = 16


def batches(images: int) -> Iterator[Tensor]:
    """Yields calibration images as a loader does: read on demand, and again if there are too few."""
    while images > 0:
        for batch in training_images(_BATCH):
            if images > 0:
                yield batch[:images]
                images -= len(batch)


def speed(rounds: int = 3) -> dict[str, Any]:
    """Times W8A8 of a DeiT-T and the forward passes over the same 128 images, in turn."""
    task = deit_tiny()
    data, _ = task.calibration(128)
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
    """Quantizes in a process of its own; returns its peak resident size in GiB and the seconds."""
    arguments = json.dumps({"model": model, "recipe": recipe, "images": images, "max_memory": max_memory})
    command = [sys.executable, "-W", "ignore", __file__, "--one", arguments]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


def one(model: str, recipe: Any, images: int, max_memory: float) -> dict[str, float]:
    """Quantizes in this process and returns its greatest resident size in GiB."""
    network, data = NETWORKS[model]() if model in NETWORKS else (create_model(model), batches(images))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    start = time.perf_counter()
    quantized = qpass.quantize_graph(network, data, recipe, max_memory=max_memory, progress=False)
    seconds = time.perf_counter() - start
    found = {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "before": before, "seconds": seconds}
    return found | (deployed(network, quantized, data[0], max_memory) if model in NETWORKS else {})


def deployed(network: torch.nn.Module, quantized: torch.fx.GraphModule, batch: Any, max_memory: float) -> dict[str, float]:
    """Writes a file and verifies it on a batch.

    Returns the file's size and that of the float weights in MB, the seconds of verification, and the
    greatest resident size of the process in GiB by then.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = qpass.export_onnx(quantized, Path(folder) / "model.onnx")
        start = time.perf_counter()
        qpass.verify_onnx(quantized, path, batch, max_memory=max_memory)
        verified = time.perf_counter() - start
        weights = sum(parameter.nbytes for parameter in network.parameters())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        sizes = {"file_mb": path.stat().st_size / 1e6, "float_mb": weights / 1e6}
        return {"verify_seconds": verified, "verified_peak": peak, **sizes}


def matcher() -> tuple[torch.nn.Module, list[Any]]:
    """Returns the network like LightGlue and pairs of images with as many points each."""
    return light_glue(), pairs(PAIRS, POINTS)


def super_resolution() -> tuple[torch.nn.Module, list[Tensor]]:
    """Returns NGswin with its weights, and noise: memory depends on sizes alone."""
    images = torch.rand(CROPS, 3, CROP_SIZE, CROP_SIZE, generator=torch.Generator().manual_seed(0))
    return ngswin_model(), list(images.split(2))


NETWORKS: dict[str, Callable[[], tuple[torch.nn.Module, list[Any]]]] = {
    "like LightGlue": matcher,
    "NGswin x2": super_resolution,
}


def networks(chosen: Collection[str] = ()) -> Iterator[dict[str, Any]]:
    """Measures networks whose values between layers are many times their weights.

    Args:
        chosen: Rows of the table, as "network, recipe"; empty means all.
    """
    for name, recipe in itertools.product(NETWORKS, ("w8a8", "mixed-w4a5")):
        if not chosen or f"{name}, {recipe}" in chosen:
            yield {"network": name, "recipe": recipe, "commit": commit(), **peak(name, recipe, 0, NETWORK_BOUND)}


def memory() -> Iterator[dict[str, Any]]:
    """Measures every recipe with so many images and with twice as many."""
    for name, recipe in RECIPES.items():
        few, many = (peak("deit_tiny_patch16_224", recipe, images, BOUND) for images in IMAGES)
        free = peak("deit_tiny_patch16_224", recipe, IMAGES[1], 1e6)
        yield {"recipe": name, "few": few, "many": many, "free": free, "growth": many["peak"] / few["peak"] - 1}


def processes() -> Iterator[dict[str, Any]]:
    """Times recipes in one process and in two of one thread each, in turn, and counts what they send."""
    for name, recipe in SHARED.items():
        found = {}
        for size in (1, 2):
            command = [
                "-m",
                "torch.distributed.run",
                "--standalone",
                "--nproc-per-node",
                str(size),
                __file__,
                "--member",
                json.dumps(recipe),
            ]
            output = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True).stdout
            found[size] = json.loads(next(line for line in output.splitlines() if line.startswith("{")))
        yield {"recipe": name, "one": found[1], "two": found[2]}


def member(recipe: Any) -> None:
    """Quantizes as one process of a job; the first prints its seconds, and its messages and bytes."""
    sent = {"messages": 0, "bytes": 0}

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Processes, value: Any) -> Any:
            if self.size > 1:
                sent["messages"] += 1
                sent["bytes"] += value.nbytes if isinstance(value, Tensor) else len(pickle.dumps(value))
            return function(self, value)

        return call

    for name in ("sum", "gather"):
        setattr(Processes, name, counted(getattr(Processes, name)))
    torch.set_num_threads(1)
    network = deit_tiny_model()
    data = list(batches(SHARED_IMAGES))
    with job(None):
        start = time.perf_counter()
        qpass.quantize_graph(network, data, recipe, progress=False)
        if Processes.current().first:
            click.echo(json.dumps({"seconds": time.perf_counter() - start, **sent}))


def _heading(title: str, machine: str) -> tuple[str, ...]:
    return f"## {title}", "", f"On {machine}.", ""


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Yields the page."""
    yield "# What quantizing costs"
    yield ""
    yield "Written by `python benchmarks/calibration.py`; each table says on which machine."
    yield ""
    for table, (title, section) in _SECTIONS.items():
        if table in found:
            yield from _heading(title, found["machines"][table])
            yield from section(found[table])
            yield ""


def _speed(row: dict[str, Any]) -> Iterator[str]:
    yield f"DeiT-T at W8A8 with 128 images takes {row['ratio']:.1f} times as long as the network itself needs for these images, tracing and"
    yield f"report included ({', '.join(f'{ratio:.1f}' for ratio in row['ratios'])} in turn, {row['threads']} threads). It reads them once."


def _memory(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield f"DeiT-T, greatest resident size of the process, GiB; `max_memory={BOUND}` and without a bound. Weights are random."
    yield ""
    yield f"| recipe | {IMAGES[0]} images | {IMAGES[1]} images | growth | {IMAGES[1]} images, no bound |"
    yield "|---|---|---|---|---|"
    for row in rows:
        cells = [f"{row[key]['peak']:.2f}" for key in ("few", "many")]
        yield f"| {row['recipe']} | {' | '.join(cells)} | {100 * row['growth']:.1f} % | {row['free']['peak']:.2f} |"


def _processes(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield f"DeiT-T with {SHARED_IMAGES} images, processes of one thread on one machine (`torchrun --nproc-per-node N`); what a process gives to others."
    yield ""
    yield "| recipe | 1 process | 2 processes | times faster | messages | MB |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        one, two = row["one"], row["two"]
        yield (
            f"| {row['recipe']} | {one['seconds']:.0f} s | {two['seconds']:.0f} s | {one['seconds'] / two['seconds']:.2f}"
            f" | {two['messages']} | {two['bytes'] / 1e6:.0f} |"
        )


def _networks(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield f"Greatest resident size of the process, GiB, with `max_memory={NETWORK_BOUND}`. A matcher of keypoints like LightGlue (11 M parameters, {PAIRS} pairs"
    yield f"of {POINTS} points, random weights), and NGswin x2 (1.0 M parameters, {CROPS} images of {CROP_SIZE} x {CROP_SIZE})."
    yield ""
    yield "| network | recipe | peak | before quantizing | seconds | file, MB | float weights, MB | verified in, s | peak with verification | commit |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        sizes = f"{row['peak']:.2f} | {row['before']:.2f} | {row['seconds']:.0f}"
        file = f"{row['file_mb']:.2f} | {row['float_mb']:.2f} | {row['verify_seconds']:.0f} | {row.get('verified_peak', float('nan')):.2f}"
        yield f"| {row['network']} | {row['recipe']} | {sizes} | {file} | {row['commit']} |"


def _large(recipe: str, row: dict[str, Any]) -> Iterator[str]:
    yield f"{LARGE}, {row['parameters'] / 1e6:.0f} M parameters, random weights, {recipe} with {LARGE_IMAGES} images: {row['peak']:.1f} GiB at most, of which {row['before']:.1f} GiB are there"
    yield f"before quantizing begins; {row['seconds']:.0f} s."


#: Table -> its title and what writes it.
_SECTIONS: dict[str, tuple[str, Callable[[Any], Iterator[str]]]] = {
    "speed": ("Time", _speed),
    "memory": ("Memory", _memory),
    "processes": ("Several processes", _processes),
    "networks": ("Many values, few weights", _networks),
    **{name: (f"A large model, {recipe}", partial(_large, recipe)) for name, recipe in LARGE_TABLES.items()},
}


def large(recipe: str) -> dict[str, Any]:
    """Measures a model of some 300 M parameters."""
    parameters = sum(p.numel() for p in create_model(LARGE).parameters())
    return peak(LARGE, recipe, LARGE_IMAGES, 1.0) | {"parameters": parameters}


TABLES: dict[str, Callable[[], Any]] = {
    **{"speed": speed, "memory": memory, "networks": networks, "processes": processes},
    **{name: partial(large, recipe) for name, recipe in LARGE_TABLES.items()},
}


@click.command()
@click.option("--table", "names", multiple=True, type=click.Choice(list(TABLES)), help="[default: all]")
@click.option("--row", "rows", multiple=True, help="Only these of --table networks: 'network, recipe'  [default: all]")
@click.option("--one", "arguments", hidden=True)
@click.option("--member", "shared", hidden=True)
def main(names: tuple[str, ...], rows: tuple[str, ...], arguments: str | None, shared: str | None) -> None:
    """Measure what quantizing costs and write the page."""
    if arguments is not None:
        click.echo(json.dumps(one(**json.loads(arguments))))
        return
    if shared is not None:
        member(json.loads(shared))
        return
    path = RESULTS / "calibration.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in names or TABLES:
        for table in so_far(found.get(name), networks(rows) if name == "networks" else TABLES[name]()):
            found[name] = table
            found.setdefault("machines", {})[name] = describe_machine()
            path.write_text(json.dumps(found, indent=1), encoding="utf-8")
            (RESULTS / "calibration.md").write_text("\n".join(lines(found)).rstrip() + "\n", encoding="utf-8")
            click.echo(f"{name}: {table}")


def so_far(known: Any, measured: dict[str, Any] | Iterator[dict[str, Any]]) -> Iterator[Any]:
    """Yields a table after each measurement: a row replaces the one with its name."""
    if isinstance(measured, dict):
        yield measured
        return
    rows = {(row.get("network"), row["recipe"]): row for row in known or ()}
    for row in measured:
        rows[row.get("network"), row["recipe"]] = row
        yield list(rows.values())


if __name__ == "__main__":
    main()
