"""DeiT-T in a browser: sizes, times and codes of files in WebAssembly, and pictures of the page.

Run: python benchmarks/browser.py
Writes: benchmarks/results/browser.md and .json, docs/images/browser.png and browser_dark.png. Needs
node, Chromium, and `npm ci && npm run build` in examples/browser.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import matplotlib
import numpy as np
import onnx
import torch
from assets import assets
from PIL import Image
from provenance import ROOT, provenance_line
from torch import Tensor

import qpass
from qpass.backends.deployed.run import open_network, read_image, run
from qpass.backends.onnxruntime.forced import COMPUTED, CodesOfFile
from qpass.backends.onnxruntime.layer_check import check_layers
from qpass.backends.onnxruntime.torch_run import TorchRun
from qpass.data import ModelInputs

sys.path.insert(0, str(ROOT))  # for how data goes to node and back
from tests.examples.javascript import run_script

RESULTS, IMAGES = ROOT / "benchmarks" / "results", ROOT / "docs" / "images"
#: A photograph in the public domain that matplotlib has.
PHOTO = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
RECIPES = ("w4a8", "codebook-w4a8")
THREADS = (1, 2)
REPEATS = {"loads": 5, "warmups": 2, "runs": 15}
FORCED = "forced.onnx"


def quantize(folder: Path) -> None:
    """Runs ``qpass quantize`` for each recipe, unless an earlier call has."""
    network = assets() / "deit_tiny_in1k" / "model.safetensors"
    images = assets() / "imagenet_1000_256" / "images.zip"
    for recipe in RECIPES:
        if not (folder / recipe / "preprocessing.json").exists():
            command = [sys.executable, "-m", "qpass", "quantize", "deit_tiny_patch16_224", "--checkpoint", network]
            command += ["--calib", images, "--config", recipe, "--no-verify", "--output", folder / recipe]
            subprocess.run(command, check=True)


def reference_of(folder: Path) -> tuple[TorchRun, CodesOfFile, dict[str, Any]]:
    """Returns torch's run on the photograph, the codes of the file, and inputs for JavaScript.

    Writes the file that reads torch's codes beside it; the inputs are for that file.
    """
    _, how = open_network(folder / "model.onnx")
    image = read_image(PHOTO, how)[None]
    graph = qpass.load(folder / "model.qpass")
    reference = TorchRun(graph, ModelInputs((torch.from_numpy(image),), {}))
    file = CodesOfFile(folder / "model.onnx", reference.quantizers, reference.codes)
    onnx.save(file.forced(), folder / FORCED)
    feed = {how["input"]: image, **file.feed()}
    return reference, file, {name: {"type": str(each.dtype), "dims": each.shape, "data": each} for name, each in feed.items()}


def codes_row(reference: TorchRun, file: CodesOfFile, outputs: dict[str, Any]) -> dict[str, int]:
    """Counts the codes of one file, and how they differ from torch's."""

    def computed(quantizer: str) -> Tensor:
        tensor = outputs[f"{quantizer}.codes{COMPUTED}"]
        return file.read(quantizer, tensor["data"].reshape(tensor["dims"]).copy())

    layers = check_layers(reference, computed)
    return {
        "codes": sum(layer.codes for layer in layers),
        "ties": sum(layer.ties for layer in layers),
        "wrong": sum(layer.wrong for layer in layers),
        "refused": sum(not layer.passed for layer in layers),
    }


def measure(folder: Path) -> dict[str, Any]:
    """Returns sizes, times and codes of all files."""
    files = {"float": f"{RECIPES[0]}/float.onnx", **{recipe: f"{recipe}/model.onnx" for recipe in RECIPES}}
    references = {recipe: reference_of(folder / recipe) for recipe in RECIPES}
    plain = {
        path: {name: each for name, each in references[path.split("/")[0]][2].items() if not name.endswith(".codes")}
        for path in files.values()
    }
    found = run_script(
        ROOT / "benchmarks" / "browser_timing.mjs",
        given={
            "folder": str(folder),
            "files": list(files.values()),
            "image": str(PHOTO),
            "threads": THREADS,
            "repeats": REPEATS,
            "forced": plain | {f"{recipe}/{FORCED}": references[recipe][2] for recipe in RECIPES},
        },
    )
    rows = []
    for index, (name, path) in enumerate(files.items()):
        session, how = open_network(folder / path)
        (native,) = run(session, how, read_image(PHOTO, how)).values()
        (output,) = found["outputs"][path].values()
        rows.append(
            {
                "file": name,
                "bytes": (folder / path).stat().st_size,
                "off_native": float(np.abs(output["data"] - native.ravel()).max() / native.std()),
                "milliseconds": {threads: times[index] for threads, times in found["times"].items()},
            }
        )
        if name != "float":
            reference, file, _ = references[name]
            rows[-1] |= codes_row(reference, file, found["outputs"][f"{name}/{FORCED}"])
    packages = json.loads((ROOT / "examples" / "browser" / "package.json").read_text(encoding="utf-8"))["dependencies"]
    runtime = f"onnxruntime-web {packages['onnxruntime-web']}, Chromium {found['chromium']}"
    busy = f"{os.getloadavg()[1]:.0f} processes waited for {os.cpu_count()} cores"
    return {"rows": rows, "runtime": runtime, "busy": busy, "provenance": provenance_line()}


def page(found: dict[str, Any]) -> Iterator[str]:
    """Yields the lines of the table."""
    rows, counts = found["rows"], f"{REPEATS['loads']} loads and {REPEATS['runs']} runs"
    yield "# In a browser"
    yield ""
    yield f"Written by `python benchmarks/browser.py`. {found['provenance']} In the page: {found['runtime']}, headless."
    yield ""
    yield "DeiT-T in [the page](../../docs/browser.md) of `examples/browser`, batch 1. Speed is float's time over the file's, in WebAssembly in"
    yield f"the same page. All files are loaded and run in turn; medians of {counts}. The spread is the interquartile range over the"
    yield f"median of the runs. While this was measured, {found['busy']}: compare within a column, not across columns."
    yield "Loads get faster from one to the next, as the browser compiles more of the runtime."
    yield ""
    timed = [
        f"{what}, {threads} thread{'s' if threads > 1 else ''}"
        for threads in THREADS
        for what in ("loading", "running", "spread")
    ]
    yield f"| file | MB | of float | {' | '.join(timed)} |"
    yield "|---" * (3 + len(timed)) + "|"
    base = rows[0]
    for row in rows:
        cells = [f"{row['bytes'] / 1e6:.2f}", f"{100 * row['bytes'] / base['bytes']:.1f} %"]
        for threads in map(str, THREADS):
            own, float_ = row["milliseconds"][threads], base["milliseconds"][threads]
            cells += [f"{np.median(float_[what]) / np.median(own[what]):.2f}" for what in ("load", "run")] + [
                spread(own["run"])
            ]
        yield f"| {row['file']} | {' | '.join(cells)} |"
    yield ""
    times = "; ".join(
        f"with {threads} thread{'s' if threads > 1 else ''} it loads in {np.median(base['milliseconds'][str(threads)]['load']):.0f} ms and "
        f"runs in {np.median(base['milliseconds'][str(threads)]['run']):.0f} ms"
        for threads in THREADS
    )
    yield f"Float itself: {times}."
    yield ""
    yield "## The same network"
    yield ""
    yield "Codes: each layer is fed with torch's codes of one photograph, and its own are compared with torch's, as `verify_onnx` does natively."
    yield "A tie is a value so close to the boundary of two codes that float32 rounding decides. Outputs: a free run against native"
    yield "onnxruntime, as a multiple of the outputs' standard deviation; one tie early in the network moves all later codes a little."
    yield ""
    yield "| file | codes | ties | wrong | outputs differ by |"
    yield "|---|---|---|---|---|"
    for row in rows:
        codes = [f"{row[key]:,}" for key in ("codes", "ties", "wrong")] if "codes" in row else ["", "", ""]
        yield f"| {row['file']} | {' | '.join(codes)} | {row['off_native']:.2g} |"


def spread(values: list[float]) -> str:
    """Returns the interquartile range over the median."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{(high - low) / middle:.0%}"


def take_pictures(folder: Path) -> None:
    """Writes the pictures of the docs."""
    script = ROOT / "benchmarks" / "browser_picture.mjs"
    names = [IMAGES / name for name in ("browser.png", "browser_dark.png")]
    subprocess.run(["node", script, folder / RECIPES[0], PHOTO, *names], check=True)
    for name in names:
        with Image.open(name) as picture:
            picture.convert("RGB").quantize(256).save(name, optimize=True)


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), help="Keep the quantized files here, and use those that are there.")
@click.option("--pictures", is_flag=True, help="Only take the pictures.")
def main(folder: Path | None, pictures: bool) -> None:
    """Quantize, measure, write the page and take the pictures."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = folder or Path(temporary)
        quantize(folder)
        take_pictures(folder)
        if not pictures:
            found = measure(folder)
            (RESULTS / "browser.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            (RESULTS / "browser.md").write_text("\n".join(page(found)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
