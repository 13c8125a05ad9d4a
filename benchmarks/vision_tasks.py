"""Boxes, masks and parts at each recipe: small networks that are trained here, on data of their own.

Run: python benchmarks/vision_tasks.py [--task detection|parts] [--recipes w8a8 ...] [--threads 1]
    --list says which rows are missing or stale; --stale measures the stale ones alone; --pages only
    writes the pages.
Writes: benchmarks/results/rows/detection.jsonl and parts.jsonl after every row, then the pages. The
same command in several processes at once shares the rows out among them. The data are drawn from
seeds that no network was trained on, written to disk in COCO's and ShapeNetPart's formats, and read
back.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import provenance
import shapes
import solids
import torch
import train_detector
import train_part_segmenter
from paired import resamples
from provenance import Provenance, sources
from recipes import FLOAT, SEEDS, Recipe, settings_of, shown
from resampled_ap import SCORES, average_precisions
from row_runs import pending, run
from safetensors.torch import load_file
from stored_rows import Drawn, Row, RowStore
from table_text import WHAT_ERRORS_ARE, drop, of_recipes, same_kind, stale_note, where_from
from torch import Tensor, nn

import qpass
from qpass.data import CocoImages, draw_samples, open_shapenet_part
from qpass.evaluation.part_segmentation import evaluate_parts
from qpass.runtime.atomic_write import write_whole
from qpass.zoo.mask_rcnn import PARTS

RESULTS = Path(__file__).parent / "results"
#: Images or clouds that may calibrate, those of them that do, and those that evaluate.
POOL, CALIBRATION, EVALUATION = 256, 128, 400
#: The first seeds of those that may calibrate and of those that evaluate.
_POOL_SEED, _EVALUATION_SEED = 1000, 128
_BATCH = 8
ROWS = (
    "w8a8", "w6a6", "w4a8", "mixed-w4a5", "w4a4", "naive-w8a8", "naive-w6a6", "naive-w4a4",
    "repq-vit-w8a8", "repq-vit-w6a6", "repq-vit-w4a4",
    "ias-vit-w6a6", "ias-vit-w4a4", "dopq-vit-w6a6", "dopq-vit-w4a4", "aiqvit-w6a6", "aiqvit-w4a4",
)  # fmt: skip
#: Score -> its value, and its values on resamples.
Scores = tuple[dict[str, float], dict[str, list[float]]]


@dataclass(frozen=True)
class VisionTask:
    """A trained network, what calibrates it and how it is measured.

    Attributes:
        model: The float network.
        pool: Batches of one sample that may calibrate.
        join: Makes a batch of samples.
        submodules: Parts to quantize, or None for the whole.
        evaluate: A network to its scores, in percent.
    """

    model: nn.Module
    pool: list[Any]
    join: Callable[[list[Any]], Any]
    submodules: tuple[str, ...] | None
    evaluate: Callable[[Callable[..., Any]], Scores]

    def calibration(self, seed: int) -> tuple[list[Any], Drawn]:
        """Returns batches of samples that are drawn at random, and which they are."""
        drawn = draw_samples([0] * len(self.pool), CALIBRATION, seed=seed)
        batches = [self.join([self.pool[i] for i in drawn[start : start + _BATCH]]) for start in range(0, len(drawn), _BATCH)]
        return batches, Drawn(len(drawn), len(self.pool), seed, provenance.digest(drawn))


@dataclass(frozen=True)
class Page:
    """What a page says of a network, and how it is loaded."""

    title: str
    description: str
    weights: Path
    scores: tuple[str, ...]
    modules: tuple[str, ...]
    load: Callable[[Path], VisionTask]


def detection(folder: Path) -> VisionTask:
    """Mask R-CNN with a small Swin on coloured shapes."""
    calibration = CocoImages(shapes.write_coco(folder / "calibration", POOL, seed=_POOL_SEED))
    annotations = shapes.write_coco(folder / "evaluation", EVALUATION, seed=_EVALUATION_SEED)
    evaluation = CocoImages(annotations)

    def evaluate(model: Callable[[list[Tensor]], Any]) -> Scores:
        found: list[dict[str, Tensor]] = []
        with torch.no_grad():
            for start in range(0, len(evaluation), _BATCH):
                found += model([evaluation[i][0] for i in range(start, min(start + _BATCH, len(evaluation)))])
        return average_precisions(annotations / "instances.json", found)

    return VisionTask(
        _load(train_detector.small_mask_rcnn(), train_detector.WEIGHTS),
        [calibration[index][0] for index in range(len(calibration))],
        lambda images: (images,),
        PARTS,
        evaluate,
    )


def parts(folder: Path) -> VisionTask:
    """Point Transformer on composed solids."""
    written = [
        solids.write_shapenet_part(folder / name, count, seed)
        for name, count, seed in (("calibration", POOL, _POOL_SEED), ("evaluation", EVALUATION, _EVALUATION_SEED))
    ]
    calibration, evaluation = (open_shapenet_part(path, split=None, points=solids.POINTS) for path in written)

    def evaluate(model: Callable[[Tensor], Tensor]) -> Scores:
        found = evaluate_parts(model, evaluation, list(solids.PARTS_OF.values()))
        drawn = [torch.from_numpy(one) for one in resamples(len(found.objects))]
        again = [type(found)(found.objects[one], found.kinds[one]) for one in drawn]
        scores = {"instance mIoU": 100 * found.instance_miou, "class mIoU": 100 * found.class_miou}
        return scores, {
            "instance mIoU": [100 * one.instance_miou for one in again],
            "class mIoU": [100 * one.class_miou for one in again],
        }

    return VisionTask(
        _load(train_part_segmenter.small_point_transformer(), train_part_segmenter.WEIGHTS),
        list(calibration.clouds),
        torch.stack,
        None,
        evaluate,
    )


PAGES: Mapping[str, Page] = {
    "detection": Page(
        "Detection and instance segmentation",
        f"Mask R-CNN with a small Swin of three stages, {shapes.SIZE} x {shapes.SIZE}: boxes and masks of coloured shapes on cluttered\n"
        f"backgrounds, {CALIBRATION} images calibrate, {EVALUATION} others evaluate. Backbone with pyramid, box head and box\n"
        "predictor are quantized (3x3 convolutions stay float), the rest runs in torch around them.",
        train_detector.WEIGHTS,
        tuple(SCORES),
        ("vision_tasks.py", "resampled_ap.py", "shapes.py"),
        detection,
    ),
    "parts": Page(
        "Part segmentation",
        f"Point Transformer of two stages, {solids.POINTS} points: parts of composed solids, {CALIBRATION} clouds calibrate, {EVALUATION} others\n"
        "evaluate. Its Softmax weighs channels and goes into no matmul: published methods quantize it, `wXaY` leaves it float.",
        train_part_segmenter.WEIGHTS,
        ("instance mIoU", "class mIoU"),
        ("vision_tasks.py", "solids.py"),
        parts,
    ),
}


def _load(model: nn.Module, path: Path) -> nn.Module:
    model.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in load_file(path).items()}
    )
    return model.eval()


def recipes() -> dict[str, Recipe]:
    """Returns the rows of both tables."""
    found = [Recipe(name, settings_of(name)) for name in ROWS]
    return {FLOAT: Recipe(FLOAT), **{one.name: Recipe(one.name, one.settings, (0,) if one.learns else SEEDS) for one in found}}


def measure(page: Page, task: VisionTask, recipe: Recipe, seed: int, threads: int) -> Row:
    """Quantizes, exports, verifies and evaluates one recipe; float is evaluated in torch."""
    row = {"recipe": recipe.name, "seed": seed, "config": recipe.digest}
    made_with = Provenance.here(RowStore("sources").keep_sources(sources(recipe.learns, page.modules)))
    start = time.perf_counter()
    if recipe.settings is None:
        scores, resampled = task.evaluate(task.model)
        seconds = round(time.perf_counter() - start, 1)
        return Row(
            **row, scores=scores, resampled=resampled, verified=True, file_mb=0.0, total_seconds=seconds, provenance=made_with
        )
    calibration, drawn = task.calibration(seed)
    torch.manual_seed(0)
    qmodel = qpass.quantize_graph(task.model, calibration, recipe.config, submodules=task.submodules, seed=seed, progress=False)
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        path = qpass.export_onnx(qmodel, Path(folder) / ("parts" if task.submodules else "model.onnx"))
        verified = qpass.verify_onnx(qmodel, path, calibration[0], strict=False)
        in_torch, _ = task.evaluate(qmodel)
        scores, resampled = task.evaluate(qpass.onnxruntime_model(qmodel, path, threads=threads))
        size = sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
    if not verified.passed:
        click.echo(str(verified))
    return Row(
        **row,
        scores=scores,
        resampled=resampled,
        in_torch=in_torch,
        verified=verified.passed,
        file_mb=size / 1e6,
        quantize_seconds=round(seconds, 1),
        total_seconds=round(time.perf_counter() - start, 1),
        schedule=recipe.schedule,
        steps=recipe.steps,
        drawn=drawn,
        provenance=made_with,
    )


def lines(name: str, page: Page) -> Iterator[str]:
    """Yields a page."""
    training = json.loads(page.weights.with_suffix(".json").read_text(encoding="utf-8"))
    store, wanted = RowStore(name), recipes()
    history = store.history()
    rows = {recipe: same_kind(found) for recipe, found in of_recipes(store.read().values()).items() if recipe in wanted}
    base = rows.pop(FLOAT, [None])[0]
    reasons = {r: why for r, found in rows.items() if (why := history.why_stale(found[0], wanted[r].digest))}
    yield f"# {page.title}"
    yield ""
    yield f"Written by `python benchmarks/vision_tasks.py --task {name}`."
    yield page.description
    yield (
        f"The network has {training['parameters'] / 1e6:.2f} M parameters and was trained from nothing for {training['minutes']:.0f} minutes, "
        f"{training['steps']} steps, on a CPU with {training['threads']} thread{'s' * (training['threads'] > 1)}."
    )
    yield ""
    yield WHAT_ERRORS_ARE.replace("over images, paired", "over images (a bootstrap), paired")
    yield ""
    if base:
        yield "Float: " + ", ".join(f"{score} {_with_error(base, score)}" for score in page.scores) + "."
        yield ""
    header = [*(f"{score}, below float" for score in page.scores), *(f"{score} (in torch)" for score in page.scores)]
    yield f"| recipe | {' | '.join(header)} | seeds | verified | quantized in | commit |"
    yield "|---" * (len(header) + 5) + "|"
    for recipe in wanted:
        if recipe in rows:
            label = shown(recipe, rows[recipe][0].schedule) + ("†" if recipe in reasons else "")
            yield f"| {label} | {' | '.join(_cells(rows[recipe], base, page.scores))} |"
    yield from stale_note(reasons)
    yield ""
    yield from where_from([row for found in (*rows.values(), [base] if base else []) for row in found])


def _with_error(base: Row, score: str) -> str:
    error = f" ± {np.std(base.resampled[score], ddof=1):.2f}" if score in base.resampled else ""
    return f"{base.scores[score]:.2f}{error}"


def _cells(found: list[Row], base: Row | None, scores: tuple[str, ...]) -> Iterator[str]:
    for score in scores:
        below = drop(found, base, score) if base else None
        if below is None and base:
            yield f"{base.scores[score] - _mean(found, score):.2f}"
        else:
            yield f"{below.value:.2f} ± {below.error:.2f}" if below else ""
    for score in scores:
        in_torch = [row.in_torch[score] for row in found if score in row.in_torch]
        yield f"{_mean(found, score):.2f}" + (f" ({sum(in_torch) / len(in_torch):.2f})" if in_torch else "")
    yield str(len(found))
    yield "yes" if all(row.verified for row in found) else "**no**"
    yield f"{sum(row.quantize_seconds for row in found) / len(found):.0f} s"
    yield ", ".join(sorted({row.provenance.commit for row in found if row.provenance})) or "not kept"


def _mean(found: list[Row], score: str) -> float:
    return sum(row.scores[score] for row in found) / len(found)


@click.command()
@click.option("--task", "names", multiple=True, type=click.Choice(list(PAGES)), help="[default: all]")
@click.option("--recipes", "wanted", multiple=True, help="Rows to measure  [default: all]")
@click.option("--list", "listed", is_flag=True, help="Say which rows are missing or stale, and measure none.")
@click.option("--stale", "only_stale", is_flag=True, help="Measure rows again whose code or recipe has changed, and no others.")
@click.option("--fresh", is_flag=True, help="Measure rows that are there, too.")
@click.option("--pages", is_flag=True, help="Only write the pages.")
@click.option("--threads", default=1, show_default=True, help="Of torch and onnxruntime.")
def main(
    names: tuple[str, ...], wanted: tuple[str, ...], listed: bool, only_stale: bool, fresh: bool, pages: bool, threads: int
) -> None:
    """Measure the recipes and write the pages."""
    torch.set_num_threads(threads)
    table = recipes()
    if unknown := [name for name in wanted if name not in table]:
        raise click.BadParameter(f"no row is called {unknown[0]!r}; there are {', '.join(table)}")
    for name in names or PAGES:
        rows = [(one, seed) for one in table.values() if one.name in (wanted or table) for seed in one.seeds]
        to_do = list(pending(name, rows, only_stale=only_stale, fresh=fresh))
        if listed:
            click.echo("\n".join(map(str, to_do)))
            continue
        try:
            if not pages and to_do:
                with tempfile.TemporaryDirectory() as folder:
                    task = PAGES[name].load(Path(folder))
                    run(to_do, lambda row, name=name, task=task: measure(PAGES[name], task, row.recipe, row.seed, threads))
        finally:
            write_whole(RESULTS / f"{name}.md", "\n".join(lines(name, PAGES[name])).rstrip() + "\n")


if __name__ == "__main__":
    main()
