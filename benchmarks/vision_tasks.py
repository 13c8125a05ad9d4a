"""Detection and segmentation of instances and parts at each recipe, by networks trained here.

Run: python benchmarks/vision_tasks.py [--task detection|parts] [--rows w8a8 ...] [--fresh]
Writes: benchmarks/results/detection.md and .csv, parts.md and .csv; finished rows are kept. The
data are drawn from seeds that no network was trained on, written to disk in COCO's and
ShapeNetPart's formats, and read back.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import shapes
import solids
import torch
import train_detector
import train_part_segmenter
from accuracy import RECIPES
from result_rows import read_rows, write_rows
from safetensors.torch import load_file
from torch import Tensor, nn

import qpass
from qpass.backends.onnxruntime.latency import describe_machine
from qpass.config import QuantConfig
from qpass.config.options import LearningOrder
from qpass.data import CocoImages, open_shapenet_part
from qpass.evaluation.detection import evaluate_detection
from qpass.evaluation.part_segmentation import evaluate_parts
from qpass.zoo.mask_rcnn import PARTS

RESULTS = Path(__file__).parent / "results"
CALIBRATION, EVALUATION = 128, 400
_BATCH = 8
ROWS = (
    "w8a8", "w6a6", "w4a4", "naive-w8a8", "naive-w6a6", "naive-w4a4", "repq-vit-w8a8", "repq-vit-w6a6", "repq-vit-w4a4",
    "ias-vit-w6a6", "ias-vit-w4a4", "dopq-vit-w6a6", "dopq-vit-w4a4", "aiqvit-w6a6", "aiqvit-w4a4",
)  # fmt: skip


@dataclass(frozen=True)
class VisionTask:
    """A trained network and what it is calibrated and measured on.

    Attributes:
        title: Heads the page.
        description: What the figures are.
        weights: The network's.
        model: The float network.
        calibration: Batches that calibrate.
        submodules: Parts to quantize, or None for the whole.
        scores: Names of what ``evaluate`` gives, in percent.
        evaluate: A network to its scores.
    """

    title: str
    description: str
    weights: Path
    model: nn.Module
    calibration: list[Any]
    submodules: tuple[str, ...] | None
    scores: tuple[str, ...]
    evaluate: Callable[[Callable[..., Any]], list[float]]


def detection(folder: Path) -> VisionTask:
    """Mask R-CNN with a small Swin on coloured shapes."""
    calibration = CocoImages(shapes.write_coco(folder / "calibration", CALIBRATION, seed=0))
    evaluation = CocoImages(shapes.write_coco(folder / "evaluation", EVALUATION, seed=CALIBRATION))
    batches = [calibration[index][0] for index in range(len(calibration))]

    def evaluate(model: Callable[[list[Tensor]], Any]) -> list[float]:
        found = evaluate_detection(model, (evaluation[index] for index in range(len(evaluation))), batch=_BATCH)
        assert found.mask_ap is not None
        return [100 * value for value in (found.box_ap, found.box_ap50, found.mask_ap)]

    return VisionTask(
        "Detection and instance segmentation",
        f"Mask R-CNN with a small Swin of three stages, {shapes.SIZE} x {shapes.SIZE}: boxes and masks of coloured shapes on cluttered\n"
        f"backgrounds, {len(calibration)} images calibrate, {len(evaluation)} others evaluate. Backbone with pyramid, box head and box\n"
        "predictor are quantized (3x3 convolutions stay float), the rest runs in torch around them.",
        train_detector.WEIGHTS,
        _load(train_detector.small_mask_rcnn(), train_detector.WEIGHTS),
        [(batches[start : start + _BATCH],) for start in range(0, len(batches), _BATCH)],
        PARTS,
        ("box AP", "box AP50", "mask AP"),
        evaluate,
    )


def parts(folder: Path) -> VisionTask:
    """Point Transformer on composed solids."""
    written = [
        solids.write_shapenet_part(folder / name, count, seed)
        for name, count, seed in (("calibration", CALIBRATION, 0), ("evaluation", EVALUATION, CALIBRATION))
    ]
    calibration, evaluation = (open_shapenet_part(path, split=None, points=solids.POINTS) for path in written)

    def evaluate(model: Callable[[Tensor], Tensor]) -> list[float]:
        found = evaluate_parts(model, evaluation, list(solids.PARTS_OF.values()))
        return [100 * found.instance_miou, 100 * found.class_miou]

    return VisionTask(
        "Part segmentation",
        f"Point Transformer of two stages, {solids.POINTS} points: parts of composed solids, {len(calibration)} clouds calibrate, {len(evaluation)} others\n"
        "evaluate. Its Softmax weighs channels and goes into no matmul: it stays float, whatever the method has for it.",
        train_part_segmenter.WEIGHTS,
        _load(train_part_segmenter.small_point_transformer(), train_part_segmenter.WEIGHTS),
        list(calibration.clouds.split(16)),
        None,
        ("instance mIoU", "class mIoU"),
        evaluate,
    )


TASKS: Mapping[str, Callable[[Path], VisionTask]] = {"detection": detection, "parts": parts}


def _load(model: nn.Module, path: Path) -> nn.Module:
    model.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in load_file(path).items()}
    )
    return model.eval()


@dataclass
class Row:
    """One recipe; scores in percent, separated by blanks, in torch and through onnxruntime."""

    config: str
    torch_scores: str
    onnxruntime_scores: str
    verified: bool
    steps: int
    quantize_seconds: float


def measure(name: str, task: VisionTask) -> Row:
    """Quantizes, exports, verifies and evaluates one recipe."""
    recipe = QuantConfig.from_any(RECIPES[name])
    start = time.perf_counter()
    qmodel = qpass.quantize_graph(task.model, task.calibration, recipe, submodules=task.submodules)
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        path = qpass.export_onnx(qmodel, Path(folder) / ("parts" if task.submodules else "model.onnx"))
        verified = qpass.verify_onnx(qmodel, path, task.calibration[0], strict=False)
        in_torch, in_onnxruntime = task.evaluate(qmodel), task.evaluate(qpass.onnxruntime_model(qmodel, path))
    if not verified.passed:
        click.echo(str(verified))
    learning = recipe.reconstruction
    steps = 0 if learning is None else learning.steps_of_a_block * (2 if learning.order == LearningOrder.THREE_STAGE else 1)
    text = [" ".join(f"{value:.2f}" for value in scores) for scores in (in_torch, in_onnxruntime)]
    return Row(name, *text, verified.passed, steps, seconds)


def write(name: str, task: VisionTask, base: list[float], rows: list[Row]) -> None:
    """Writes the tables."""
    training = json.loads(task.weights.with_suffix(".json").read_text(encoding="utf-8"))
    header = [*(f"{score} torch" for score in task.scores), *(f"{score} onnxruntime" for score in task.scores)]
    lines = [
        f"# {task.title}",
        "",
        f"Written by `python benchmarks/vision_tasks.py --task {name}` on {describe_machine()}.",
        task.description,
        f"The network has {training['parameters'] / 1e6:.2f} M parameters and was trained from nothing for {training['minutes']:.0f} minutes, {training['steps']} steps, on a CPU"
        f" with {training['threads']} thread{'s' * (training['threads'] > 1)}.",
        "",
        "Float: " + ", ".join(f"{score} {value:.2f}" for score, value in zip(task.scores, base, strict=True)) + ".",
        "",
        f"| recipe | steps | {' | '.join(header)} | kept | verified | quantized in |",
        f"|---|---|{'---|' * len(header)}---|---|---|",
    ]
    for row in rows:
        scores = [*row.torch_scores.split(), *row.onnxruntime_scores.split()]
        kept = 100 * float(row.onnxruntime_scores.split()[0]) / base[0]
        verdict = "yes" if row.verified else "no"
        lines.append(
            f"| {row.config} | {row.steps or ''} | {' | '.join(scores)} | {kept:.1f} % | {verdict} | {row.quantize_seconds:.0f} s |"
        )
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_rows(RESULTS / f"{name}.csv", rows)


@click.command()
@click.option("--task", "names", multiple=True, type=click.Choice(list(TASKS)), help="[default: all]")
@click.option("--rows", "wanted", multiple=True, help="Rows to measure  [default: all]")
@click.option("--fresh", is_flag=True, help="Measure every row anew.")
def main(names: tuple[str, ...], wanted: tuple[str, ...], fresh: bool) -> None:
    """Measure the recipes and write the tables."""
    for name in names or TASKS:
        with tempfile.TemporaryDirectory() as folder:
            task = TASKS[name](Path(folder))
            base = task.evaluate(task.model)
            click.echo(f"{name} float {base}")
            rows = {} if fresh else {row.config: row for row in read_rows(RESULTS / f"{name}.csv", Row)}
            for row in wanted or ROWS:
                if row not in rows:
                    torch.manual_seed(0)
                    rows[row] = measure(row, task)
                click.echo(str(rows[row]))
                write(name, task, base, [rows[row] for row in ROWS if row in rows])


if __name__ == "__main__":
    main()
