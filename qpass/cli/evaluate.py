"""The command ``qpass evaluate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from qpass.cli.labelled import FLOAT_FILE, open_labelled, top1_of_files
from qpass.cli.options import DATA, batch_size_option, console, image_options
from qpass.cli.transforms import saved_transform
from qpass.runtime.plain_data import printable

if TYPE_CHECKING:
    from qpass.evaluation.top1 import Accuracy


@click.command()
@click.argument("folder", type=DATA)
@click.option("--data", type=DATA, required=True, help="Labelled images: ImageFolder, .zip + labels.csv, or .npz with x, y.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@batch_size_option
@image_options
def evaluate(folder: Path, data: Path, batch_size: int, crop: int | None, resize: int | None, as_json: bool) -> None:
    """Measure top-1 of the float file, the quantized graph in torch, and its file in onnxruntime.

    Of several outputs, the class scores are the one called 'logits', or else the only 2-D one.
    """
    import qpass
    from qpass.cli.run_folder import FLOAT, GRAPH, MODEL, file_in

    images = open_labelled(data, saved_transform(folder, crop, resize))
    graph = qpass.load(file_in(folder, GRAPH))
    found = top1_of_files(graph, file_in(folder, FLOAT), file_in(folder, MODEL), images, batch_size, with_graph=True)
    base = found[FLOAT_FILE]
    networks = {name: _row(accuracy, base) for name, accuracy in found.items()}
    if as_json:
        click.echo(json.dumps({"data": str(data), "images": len(base.correct), "networks": networks}, indent=1))
        return
    table = Table("network", "top-1", "below float", title=f"{len(base.correct)} images of {printable(data.name)}")
    for name, row in networks.items():
        table.add_row(
            name,
            f"{row['top1']:.2%} ± {row['standard_error']:.2%}",
            f"{100 * row['drop']:.2f} ± {100 * row['drop_error']:.2f} points",
        )
    console.print(table)


def _row(accuracy: Accuracy, base: Accuracy) -> dict[str, float]:
    drop, error = accuracy.drop_from(base)
    return {"top1": accuracy.top1, "standard_error": accuracy.standard_error, "drop": drop, "drop_error": error}
