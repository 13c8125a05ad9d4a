"""Digests of the files that closed-form recipes write for control networks; run by same_files.py.

Run: python benchmarks/control_files.py NETWORK ... [--recipe NAME ...]
Prints JSON: network -> recipe -> digest. The first qpass on PYTHONPATH writes the files.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import onnx
import torch
from networks import NETWORKS
from onnx import numpy_helper
from recipes import CLOSED_FORM, FLOAT, Recipe, main_table
from task import Task

import qpass
from qpass.backends.onnx_qdq import export_float
from qpass.backends.onnxruntime import OrtSession
from qpass.data import ModelInputs
from qpass.graph.capture.trace import trace

#: Samples that calibrate a control network.
SAMPLES = 8


def digest_of_file(path: Path, images: torch.Tensor) -> str:
    """Returns a digest of a file's constants and of its outputs, bit by bit.

    Names of values do not count.
    """
    constants = sorted(
        hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()
        for array in map(numpy_helper.to_array, onnx.load(path).graph.initializer)
    )
    session = OrtSession(path, threads=1)
    outputs = session.run(session.feed(ModelInputs((images,), {})))
    values = [outputs[name].tobytes().hex() for name in session.output_names]
    return hashlib.sha256(json.dumps([constants, values]).encode()).hexdigest()[:16]


def digest_of_recipe(task: Task, recipe: Recipe, path: Path) -> str:
    """Writes the file of one recipe and returns its digest."""
    (images, *_), _ = task.calibration(SAMPLES)
    if recipe.settings is None:
        return digest_of_file(export_float(trace(task.model, (images,)), path), images)
    graph = qpass.quantize_graph(task.model, [images], recipe.config, progress=False)
    return digest_of_file(qpass.export_onnx(graph, path), images)


@click.command()
@click.argument("networks", nargs=-1, required=True, type=click.Choice(list(NETWORKS)))
@click.option("--recipe", "names", multiple=True, help="[default: all of closed form]")
def main(networks: Sequence[str], names: Sequence[str]) -> None:
    """Print the digests of the files of control networks."""
    torch.set_num_threads(1)
    found: dict[str, dict[str, str]] = {}
    for network in networks:
        task, rows = NETWORKS[network].load(), main_table(network)
        with tempfile.TemporaryDirectory() as folder:
            wanted = [rows[name] for name in (FLOAT, *CLOSED_FORM) if name in rows and name in (names or rows)]
            found[network] = {r.name: digest_of_recipe(task, r, Path(folder, f"{i}.onnx")) for i, r in enumerate(wanted)}
    click.echo(json.dumps(found))


if __name__ == "__main__":
    main()
