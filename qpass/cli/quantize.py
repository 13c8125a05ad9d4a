"""The command ``qpass quantize``."""

from __future__ import annotations

import dataclasses
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from qpass.cli.closing import check_file, closing_lines
from qpass.cli.doubts import doubts_of_folder, doubts_of_images, doubts_of_weights
from qpass.cli.keep_accuracy import AccuracyOptions, accuracy_options
from qpass.cli.model_arguments import named_arguments
from qpass.cli.options import (
    COUNT,
    DATA,
    batch_size_option,
    console,
    file_options,
    image_options,
    preprocessing_options,
    renamed,
)
from qpass.cli.outputs import float_file, prepare_folder, write_all
from qpass.cli.resumable import resumable
from qpass.cli.transforms import model_transform, read_names
from qpass.config.presets import POLISHES, PRESETS, SCHEDULES
from qpass.graph.facts import facts_of
from qpass.runtime.arguments import SEEDS, usable_device
from qpass.runtime.plain_data import printable
from qpass.runtime.storage import DEFAULT_GIB, bytes_of


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
def quantize(
    model: str, checkpoint: Path | None, calib: Path, calib_count: int | None, num_calib: int | None, config: str | None,
    exclude: tuple[str, ...], schedule: str | None, polish: str | None, checkpoint_dir: Path | None, max_memory: float,
    target: str, weight_type: str, output: Path, discard: bool, no_verify: bool, device: str | None, seed: int,
    model_args: tuple[str, ...], batch_size: int, crop: int | None, resize: int | None, mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None, class_names: Path | None, image_size: tuple[int, int] | None, goal: AccuracyOptions | None,
) -> None:  # fmt: skip
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
      settings.json the model, the seed, and which calibration images were drawn
      recipe.yaml   with --max-drop: the recipe that was chosen, for --config
      run.py        a script that runs model.onnx on images without qpass and torch
      preprocessing.json  how images become its input, and the names of its classes
    """  # noqa: D301 (click reads the backspace)
    import qpass
    from qpass.backends.onnx_qdq.capabilities import use_int8_weights
    from qpass.backends.onnx_qdq.targets import target_by_name
    from qpass.cli.run_folder import BLOCKS, CANDIDATES, REPORT, Settings, owned_folder
    from qpass.config import QuantConfig
    from qpass.data import draw_images, image_batches, open_images
    from qpass.data.images import is_array
    from qpass.runtime.distributed import Processes, job
    from qpass.zoo.pretrained import copy_companions
    from qpass.zoo.source_model import open_model

    # reject invalid arguments before any work is done
    names = class_names and read_names(class_names)
    target_by_name(target)
    use_int8_weights(weight_type)
    bytes_of(max_memory)
    factory_arguments = named_arguments(model_args)
    if device is not None:
        usable_device(device)
    config = config or ("w8a8" if goal is None else goal.start)
    learning = {key: value for key, value in (("schedule", schedule), ("polish", polish)) if value is not None}
    is_file = config.endswith((".yaml", ".yml"))
    recipe = QuantConfig.from_yaml(config, **learning) if is_file else QuantConfig.from_any({"preset": config, **learning})
    recipe = recipe.excluding(exclude)
    if target == "openvino":
        recipe = dataclasses.replace(recipe, fused_attention=True)
    prepare_folder(output)
    learns = recipe.reconstruction is not None
    keeps_blocks = learns and checkpoint_dir is None and goal is None
    with job(device) as device, ExitStack() as held:
        first = Processes.current().first
        if first:
            held.enter_context(owned_folder(output, keeps_blocks=keeps_blocks, discard=discard))
        source = open_model(model, checkpoint, image_size=image_size, **factory_arguments)
        shown_name = model if source.folder is None else str(source.folder.resolve())
        transform, known = model_transform(source, calib, crop=crop, resize=resize, image_size=image_size, mean=mean, std=std)
        asked = calib_count or num_calib
        count = asked or (1000 if learns else 128)
        images = draw_images(open_images(calib, transform), count, seed=seed)
        metric = None if goal is None else goal.metric(transform, min(batch_size, len(images)))
        if first:
            batch = next(iter(image_batches(images, batch_size)))[0]
            _warn(
                *doubts_of_weights(model, checkpoint, source.folder),
                *doubts_of_folder(output, shown_name, recipe.name),
                *doubts_of_images(batch, len(images), asked, arrays=is_array(calib), normalized=source.transform is not None),
            )
            shown = (transform, names or source.class_names) if known else None
            float_network = held.enter_context(float_file(source.network, batch, output, shown))
            kind, place = ("candidate", CANDIDATES) if goal is not None else ("block" if learns else "", BLOCKS)
            held.enter_context(resumable(kind, checkpoint_dir or output / place))
        batches = (batch for batch, _ in image_batches(images, batch_size))
        shared: dict[str, Any] = {"device": device, "seed": seed, "max_memory": max_memory}
        if goal is None:
            qmodel = qpass.quantize_graph(
                source.network, batches, recipe, checkpoint_dir=checkpoint_dir or output / BLOCKS, **shared
            )
        else:
            shared |= {"target": target, "weight_type": weight_type}
            qmodel = goal.quantize(
                source.network, batches, recipe, metric, output, folder=checkpoint_dir or output / CANDIDATES, **shared
            )
        if not first:
            return
        settings = Settings(
            model=shown_name,
            checkpoint="" if checkpoint is None else str(checkpoint.resolve()),
            model_args=model_args,
            calibration=str(calib.resolve()),
            transform=transform,
            seed=seed,
            images=images.names,
        )
        write_all(qmodel, float_network, output, settings, target, weight_type)
        if source.folder is not None:
            copy_companions(source.folder, output)
        rows = 8 if facts_of(qmodel).dynamic_batch else len(batch)
        verified = None if no_verify else check_file(qmodel, batch[:rows], output, max_memory=max_memory)
    figures = qpass.quantization_report(qmodel)
    console.print(str(figures), highlight=False)
    console.print("; ".join([f"written to {output}", *map(str, figures.bits)]), highlight=False, soft_wrap=True)
    if verified is None:
        return
    lines = closing_lines(figures, output, verified)
    lines += verified.failures[1:] if verified.failures else [f"next: qpass report {output}; open {output / REPORT}"]
    console.print(printable("\n".join(lines)), highlight=False, soft_wrap=True)
    if not verified.passed:
        raise click.exceptions.Exit(2)


def _warn(*texts: str) -> None:
    for text in texts:
        warnings.warn(text, stacklevel=2)
