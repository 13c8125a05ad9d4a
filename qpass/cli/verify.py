"""The command ``qpass verify``."""

from __future__ import annotations

from pathlib import Path

import click

from qpass.cli.options import COUNT, DATA, console, image_options, runtime_option
from qpass.cli.transforms import saved_transform
from qpass.errors import DataError
from qpass.graph.facts import facts_of
from qpass.runtime.plain_data import printable
from qpass.runtime.storage import DEFAULT_GIB


@click.command()
@click.argument("folder", type=DATA)
@click.option("--data", type=DATA, help="Images to verify on  [default: the calibration images]")
@click.option("--samples", type=COUNT, default=8, show_default=True, help="How many images.")
@click.option(
    "--max-memory",
    default=DEFAULT_GIB,
    show_default=True,
    help="GiB of memory for layer inputs; the rest goes to a temporary file.",
)
@runtime_option("With openvino, also run the whole file in OpenVINO.")
@image_options
def verify(
    folder: Path, data: Path | None, samples: int, batch_size: int, crop: int | None, resize: int | None, max_memory: float,
    runtime: str,
) -> None:  # fmt: skip
    """Prove that model.onnx computes what the graph computes, code by code; exit code 2 if it does not."""
    import qpass
    from qpass.cli.run_folder import GRAPH, MODEL, SETTINGS, file_in, read_settings
    from qpass.data import draw_images, image_batches, open_images
    from qpass.data.rows import batch_size as rows_of

    settings = read_settings(folder)
    if data is None and not settings.calibration:
        raise DataError("names no calibration images", where=str(folder / SETTINGS), hint="name images with --data")
    source = open_images(data or Path(settings.calibration), saved_transform(folder, crop, resize))
    graph = qpass.load(file_in(folder, GRAPH))
    count = samples if facts_of(graph).dynamic_batch else rows_of(facts_of(graph).example)
    images = next(iter(image_batches(draw_images(source, count, seed=settings.seed), count)))[0]
    result = qpass.verify_onnx(graph, file_in(folder, MODEL), images, strict=False, max_memory=max_memory, runtime=runtime)
    console.print(printable(str(result)), highlight=False)
    if not result.passed:
        raise click.exceptions.Exit(2)
