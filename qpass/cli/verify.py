"""The command ``qpass verify``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click

from qpass.cli.options import COUNT, DATA, console, image_options, runtime_option
from qpass.cli.outcomes import add_to_report, verdict_of
from qpass.cli.sample_images import sample_images
from qpass.cli.transforms import changed
from qpass.graph.facts import facts_of
from qpass.runtime.plain_data import printable
from qpass.runtime.storage import DEFAULT_GIB


@click.command()
@click.argument("folder", type=DATA)
@click.option("--data", type=DATA, help="Images to verify on  [default: the calibration images]")
@click.option("--samples", type=COUNT, default=8, show_default=True, help="How many images.")
@click.option("--verbose", is_flag=True, help="Print every check, not only the verdict.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--max-memory",
    default=DEFAULT_GIB,
    show_default=True,
    help="GiB of memory for layer inputs; the rest goes to a temporary file.",
)
@runtime_option("With openvino, also run the whole file in OpenVINO.")
@image_options
def verify(
    folder: Path, data: Path | None, samples: int, crop: int | None, resize: int | None, max_memory: float,
    runtime: str, verbose: bool, as_json: bool,
) -> None:  # fmt: skip
    """Prove that model.onnx computes what the graph computes, code by code; exit code 2 if it does not."""
    import qpass
    from qpass.cli.run_folder import GRAPH, MODEL, file_in, read_settings

    settings = read_settings(folder)
    settings = replace(settings, transform=changed(settings.transform, crop, resize))
    graph = qpass.load(file_in(folder, GRAPH))
    images = sample_images(settings, facts_of(graph), samples, data)
    result = qpass.verify_onnx(graph, file_in(folder, MODEL), images, strict=False, max_memory=max_memory, runtime=runtime)
    add_to_report(folder, verified=verdict_of(result))
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=1))
    else:
        brief = result.verdict == "passed" and not verbose
        lines = [result.headline, *(f"left out: {what}" for what in result.left_out)] if brief else [str(result)]
        console.print(printable("\n".join(lines)), highlight=False, soft_wrap=brief)
    if not result.passed:
        raise click.exceptions.Exit(2)
