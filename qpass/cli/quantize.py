"""The command ``qpass quantize``: its options. ``qpass.cli.quantize_run`` carries it out."""

from __future__ import annotations

from typing import Any

import click

from qpass.cli.keep_accuracy import accuracy_options
from qpass.cli.options import COUNT, DATA, batch_size_option, file_options, image_options, preprocessing_options, renamed
from qpass.cli.quantize_options import QuantizeOptions
from qpass.cli.quantize_run import run
from qpass.config.presets import POLISHES, PRESETS, SCHEDULES
from qpass.runtime.arguments import SEEDS
from qpass.runtime.storage import DEFAULT_GIB


@click.command()
@click.argument("model")
@click.option("--checkpoint", type=DATA, help="Weights: safetensors, or a torch file (read without running any code in it).")
@click.option(
    "--calib",
    type=DATA,
    required=True,
    help="Calibration images: a folder, ImageFolder, dataset that save_to_disk wrote, .zip, .npy or .npz.",
)
@click.option(
    "--calib-count",
    type=COUNT,
    help="Calibration images to draw at random, spread over the classes  [default: 128, 1000 where the recipe learns]",
)
@click.option("--num-calib", type=COUNT, hidden=True, callback=renamed("--calib-count"), help="Old name of --calib-count.")
@click.option(
    "--config",
    help="A YAML file or a preset. wXaY has weights of X bits and activations of Y bits; mixed-wXaZ has activations of Z - 1 or"
    f" 8 bits, Z on average. Presets: {', '.join(PRESETS)}"
    "  [default: w8a8]",
)
@click.option(
    "--exclude",
    multiple=True,
    metavar="PATTERN",
    help="Leave the layers in float whose module path matches, such as head or 'blocks.0.*'; may be given again.",
)
@click.option(
    "--schedule", type=click.Choice(sorted(SCHEDULES)), help="Learning schedule, for recipes that learn  [default: quick]"
)
@click.option(
    "--polish",
    type=click.Choice(sorted(POLISHES)),
    help="Learn each block after quantizing, for recipes wXaY and mixed-wXaZ.",
)
@click.option(
    "--checkpoint-dir",
    type=DATA,
    help="Save learned blocks, or the candidates of --max-drop, here  [default: in --output]. The same command resumes after"
    " the last one saved.",
)
@click.option(
    "--max-memory",
    default=DEFAULT_GIB,
    show_default=True,
    help="GiB of memory for images and values between layers; the rest goes to a temporary file.",
)
@file_options("model.onnx")
@click.option("--output", type=DATA, required=True, help="Folder to write to; created if missing.")
@click.option("--discard", is_flag=True, help="Delete blocks and candidates that another run left in --output, and start over.")
@click.option("--no-verify", is_flag=True, help="Write the files without verifying and timing them.")
@click.option("--no-images", is_flag=True, help="Leave the calibration images out of the report.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--device", help="Where to calibrate, such as cuda  [default: cpu]")
@click.option(
    "--seed",
    type=click.IntRange(0, SEEDS - 1),
    default=0,
    show_default=True,
    help="Seed of everything random: which images are drawn, rotations, learning.",
)
@click.option(
    "--model-arg",
    "model_args",
    multiple=True,
    metavar="NAME=VALUE",
    help="Argument of the model's factory, such as img_size=384; may be given again.",
)
@batch_size_option
@image_options
@accuracy_options
@preprocessing_options
def quantize(**options: Any) -> None:
    """Quantize MODEL, write ONNX, graph and report, and verify the file.

    \b
    MODEL is one of
      a timm model's name         deit_tiny_patch16_224
      a factory, or a model       mymodel:make calls make() in mymodel.py of the current folder
      a folder of transformers    ./folder, as save_pretrained writes it
      its name on the hub         google/vit-base-patch16-224, if it is in the local cache

    \b
    Writes into --output:
      model.onnx    the quantized file for onnxruntime
      model.qpass   the quantized graph for torch (qpass.load)
      float.onnx    the float file, the baseline of size and speed
      report.html   errors, ranges and histograms of every layer; report.json has the same data
      settings.json the model, command, versions, digests, and which images were drawn
      recipe.yaml   with --max-drop: the recipe that was chosen, for --config
      run.py        a script that runs model.onnx on images without qpass and torch
      preprocessing.json  how images become its input, and the names of its classes
    """  # noqa: D301 (click reads the backspace)
    if not run(QuantizeOptions(**options)):
        raise click.exceptions.Exit(2)
