"""Speed of convolutions in float, with integer weights, and on integers, by kind, size and neighbours.

Run: python benchmarks/convolutions.py
Writes: benchmarks/results/convolutions.md and .json. Convolutions="fastest" follows this table: see
``qpass.passes.analysis.convolutions``. One thread, CPU time of the process, forms in turns.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import torch
from provenance import provenance_line
from torch import Tensor, nn

import qpass
from qpass.backends.onnx_qdq import export_float
from qpass.backends.onnxruntime import OrtSession
from qpass.config import QuantConfig
from qpass.graph.capture.trace import trace
from qpass.graph.edit import get_plan
from qpass.passes import Annotate, Canonicalize
from qpass.passes.plan import LayerPlan

RESULTS = Path(__file__).parent / "results"
#: Runs of each form.
RUNS = 41
SUBJECT = "subject"


class Repeated(nn.Module):
    """The same block several times, so that conversions at the ends of the network count little."""

    def __init__(self, block: Callable[[], nn.Module], count: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(block() for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ConvNeXt(nn.Module):
    """A depthwise 7x7 convolution whose input and output are floats."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.subject = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm, self.first, self.last = nn.LayerNorm(channels), nn.Linear(channels, channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.subject(x).permute(0, 2, 3, 1))
        return x + self.last(nn.functional.gelu(self.first(y))).permute(0, 3, 1, 2)


def _chain(convolution: nn.Module, act: Callable[[], nn.Module]) -> nn.Module:
    block = nn.Sequential()
    block.add_module(SUBJECT, convolution)
    block.add_module("act", act())
    return block


def _between(channels: int, inner: int, act: Callable[[], nn.Module], side: int = 3, groups: int = 0) -> nn.Module:
    """A convolution between two 1x1 convolutions, as in MobileNet and ResNeXt."""
    block = nn.Sequential()
    block.add_module("expand", nn.Conv2d(channels, inner, 1))
    block.add_module("act1", act())
    block.add_module(SUBJECT, nn.Conv2d(inner, inner, side, padding=side // 2, groups=groups or inner))
    block.add_module("act2", act())
    block.add_module("project", nn.Conv2d(inner, channels, 1))
    return Residual(block)


def _basic(channels: int) -> nn.Module:
    block = nn.Sequential()
    block.add_module(SUBJECT, nn.Conv2d(channels, channels, 3, padding=1))
    block.add_module("act", nn.ReLU())
    block.add_module(f"{SUBJECT}2", nn.Conv2d(channels, channels, 3, padding=1))
    return nn.Sequential(Residual(block), nn.ReLU())


def _dense(channels: int, side: int, **more: Any) -> Callable[[], nn.Module]:
    padding = more.get("dilation", 1) * (side // 2)
    return lambda: nn.Conv2d(channels, channels, side, padding=padding, **more)


def cases() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Returns a network and the shape of its input for each row."""
    relu, silu, gelu = nn.ReLU, nn.SiLU, nn.GELU
    found: dict[str, tuple[nn.Module, tuple[int, ...]]] = {}
    threes = ((16, 64, relu), (16, 64, silu), (32, 56, relu), (64, 56, relu), (64, 56, silu), (128, 28, relu))
    ones = ((32, 64, silu), (48, 64, silu), (64, 56, silu), (64, 56, relu), (128, 28, silu), (384, 14, gelu))
    for side, count, kinds in ((3, 3, threes), (1, 4, ones)):
        for channels, size, act in kinds:
            block = _dense(channels, side)
            found[f"{side}x{side}, {channels} channels, {size}x{size}, {act.__name__}"] = (
                Repeated(lambda block=block, act=act: _chain(block(), act), count),  # type: ignore[misc]
                (channels, size, size),
            )
    found["3x3, residual, 64 channels, 28x28, ReLU"] = Repeated(lambda: _basic(64), 2), (64, 28, 28)
    found["3x3, dilated, 64 channels, 28x28, ReLU"] = (
        Repeated(lambda: _chain(_dense(64, 3, dilation=2)(), relu), 3),
        (64, 28, 28),
    )
    found["5x5, 64 channels, 28x28, ReLU"] = Repeated(lambda: _chain(_dense(64, 5)(), relu), 3), (64, 28, 28)
    found["3x3 of stride 2, 64 to 128 channels, 56x56, ReLU"] = _chain(nn.Conv2d(64, 128, 3, 2, 1), relu), (64, 56, 56)
    found["3x3 of stride 2, 3 to 16 channels, 256x256, SiLU"] = _chain(nn.Conv2d(3, 16, 3, 2, 1), silu), (3, 256, 256)
    found["7x7 of stride 2, 3 to 16 channels, 224x224, ReLU"] = _chain(nn.Conv2d(3, 16, 7, 2, 3), relu), (3, 224, 224)
    found["7x7 of stride 2, 3 to 64 channels, 224x224, ReLU"] = _chain(nn.Conv2d(3, 64, 7, 2, 3), relu), (3, 224, 224)
    for channels, inner, size, act, side in ((32, 128, 64, silu, 3), (64, 256, 32, silu, 3), (96, 384, 14, relu, 5)):
        found[f"depthwise {side}x{side} between 1x1, {inner} channels, {size}x{size}, {act.__name__}"] = (
            Repeated(lambda c=channels, i=inner, a=act, s=side: _between(c, i, a, s), 2),  # type: ignore[misc]
            (channels, size, size),
        )
    found["depthwise 3x3 alone, 128 channels, 28x28, ReLU"] = (
        Repeated(lambda: _chain(nn.Conv2d(128, 128, 3, padding=1, groups=128), relu), 4),
        (128, 28, 28),
    )
    found["depthwise 7x7 between floats, 96 channels, 28x28"] = Repeated(lambda: ConvNeXt(96), 2), (96, 28, 28)
    found["4 groups of 16 channels between 1x1, 28x28, ReLU"] = (
        Repeated(lambda: _between(128, 64, relu, groups=4), 2),
        (128, 28, 28),
    )
    found["32 groups of 4 channels between 1x1, 28x28, ReLU"] = (
        Repeated(lambda: _between(256, 128, relu, groups=32), 2),
        (256, 28, 28),
    )
    found["4 groups of 16 channels alone, 28x28, ReLU"] = (
        Repeated(lambda: _chain(nn.Conv2d(64, 64, 3, padding=1, groups=4), relu), 4),
        (64, 28, 28),
    )
    found["1-D, 3 of 64 channels, 1024 long, ReLU"] = (
        Repeated(lambda: _chain(nn.Conv1d(64, 64, 3, padding=1), relu), 4),
        (64, 1024),
    )
    found["3-D, 3x3x3 of 16 channels, 8x28x28, ReLU"] = (
        Repeated(lambda: _chain(nn.Conv3d(16, 16, 3, padding=1), relu), 2),
        (16, 8, 28, 28),
    )
    return found


def measure(model: nn.Module, shape: tuple[int, ...], folder: Path) -> dict[str, Any]:
    """Returns the milliseconds of each form, and what the plan chooses."""
    x = torch.randn(2, *shape)
    weights = {f"*{SUBJECT}*": {"activation": None}}
    every = QuantConfig.from_any({"preset": "w8a8", "convolutions": "all"})
    graphs = {
        "weights": qpass.quantize_graph(model, [x], every.with_rules(weights), progress=False),
        "integers": qpass.quantize_graph(model, [x], every, progress=False),
    }
    files = {name: qpass.export_onnx(graph, folder / f"{name}.onnx") for name, graph in graphs.items()}
    files["float"] = export_float(trace(model, (x,)), folder / "float.onnx")
    return {**_times(files, x[:1]), "planned": _planned(model, x)}


def _planned(model: nn.Module, x: Tensor) -> str:
    """Returns the form that the recipe w8a8 plans."""
    graph = trace(model, (x,))
    Canonicalize()(graph)
    Annotate(QuantConfig.from_any("w8a8"))(graph)
    plans = [plan for node in graph.graph.nodes if isinstance(plan := get_plan(node), LayerPlan) and SUBJECT in plan.path]
    return "weights" if any(plan.reason for plan in plans) else "integers"


def _times(files: Mapping[str, Path], x: Tensor) -> dict[str, float]:
    """Returns the median CPU milliseconds of each file, run in turns."""
    sessions = {name: OrtSession(path, threads=1) for name, path in files.items()}
    times: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(RUNS + 1):
        for name, session in sessions.items():
            feed = {session.input_names[0]: x.numpy()}
            start = time.process_time()
            session.run(feed)
            times[name].append(1e3 * (time.process_time() - start))
    return {name: statistics.median(each[1:]) for name, each in times.items()}


def table(rows: Mapping[str, Mapping[str, Any]], measured: str) -> str:
    """Returns the page.

    Args:
        rows: Milliseconds and plan of each row.
        measured: Where and when they were measured.
    """
    lines = [
        "# Convolutions on a CPU",
        "",
        "Blocks of a network in onnxruntime, one thread, batch 1: CPU time of the float file over that of the quantized one (w8a8).",
        "*weights*: the convolution named in the row multiplies floats by a weight that is stored as integers. *integers*: its input",
        "and output are quantized too. Its neighbours are on integers in both, but not in the plan where they are slower.",
        "",
        "| convolution | float, ms | weights | integers | planned |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {row['float']:.3f} | {row['float'] / row['weights']:.2f} | {row['float'] / row['integers']:.2f} | {row['planned']} |"
            for name, row in rows.items()
        ),
        "",
        measured,
    ]
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--plans", is_flag=True, help="Keep the measurements, measure only new rows, and plan all again.")
def main(plans: bool) -> None:
    """Measures all rows, or only plans them again."""
    torch.set_num_threads(1)
    path = RESULTS / "convolutions.json"
    found = json.loads(path.read_text(encoding="utf-8")) if plans else {"measured": provenance_line(), "rows": {}}
    for name, (model, shape) in cases().items():
        torch.manual_seed(0)
        if name in found["rows"]:
            found["rows"][name]["planned"] = _planned(model.eval(), torch.randn(2, *shape))
            continue
        with tempfile.TemporaryDirectory() as folder:
            found["rows"][name] = measure(model.eval(), shape, Path(folder))
        print(name, found["rows"][name], flush=True)
    found["rows"] = {name: found["rows"][name] for name in cases()}
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "convolutions.md").write_text(table(**found), encoding="utf-8")


if __name__ == "__main__":
    main()
