"""The command ``qpass sensitivity``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from torch import Tensor

from qpass.cli.image_errors import about_images
from qpass.cli.model_arguments import named_arguments
from qpass.cli.options import COUNT, DATA, batch_size_option, console, image_options, note
from qpass.cli.run_folder import PLOT, SENSITIVITY
from qpass.cli.transforms import model_transform, saved_transform
from qpass.errors import ConfigError, DataError
from qpass.runtime.arguments import SEEDS
from qpass.runtime.atomic_write import write_whole

if TYPE_CHECKING:
    from qpass.report.sensitivity import SensitivityReport

#: Largest difference between a model and its float file, as a share of the largest output.
_SAME = 1e-3


@dataclass(frozen=True)
class _Subject:
    """What is measured.

    Attributes:
        network: The float model.
        images: Its calibration images.
        config: The recipe.
        seed: Random seed.
        folder: Where the files go.
        calibration: Path of the images.
    """

    network: Any
    images: Any
    config: Any
    seed: int
    folder: Path
    calibration: Path

    def batches(self, size: int) -> Iterator[Tensor]:
        """Yields the images in batches."""
        from qpass.data import image_batches

        return (batch for batch, _ in image_batches(self.images, size))


@click.command()
@click.argument("subject", metavar="FOLDER|MODEL")
@click.option("--checkpoint", type=DATA, help="Weights of MODEL.")
@click.option("--calib", type=DATA, help="Calibration images for MODEL.")
@click.option("--calib-count", type=COUNT, default=128, show_default=True, help="Calibration images to draw at random.")
@click.option("--config", help="A preset or YAML file  [default: the folder's; w8a8 for MODEL]")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave these layers in float; may be given again.")
@click.option("--output", type=DATA, help=f"Folder for {SENSITIVITY} and {PLOT}  [default: FOLDER]")
@click.option("--top", type=COUNT, default=10, show_default=True, help="Tensors in the table and the rules.")
@click.option("--seed", type=click.IntRange(0, SEEDS - 1), default=0, show_default=True, help="Random seed, for MODEL.")
@click.option("--model-arg", "model_args", multiple=True, metavar="NAME=VALUE", help="Argument of the model's factory.")
@click.option("--trust", is_flag=True, help="Import the factory, and pass the arguments, that FOLDER's settings name.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@batch_size_option
@image_options
def sensitivity(
    subject: str, checkpoint: Path | None, calib: Path | None, calib_count: int, config: str | None, exclude: tuple[str, ...],
    output: Path | None, top: int, seed: int, model_args: tuple[str, ...], trust: bool, as_json: bool, batch_size: int,
    crop: int | None, resize: int | None,
) -> None:  # fmt: skip
    """List the tensors by what rounding each alone costs the output, with rules to paste into a recipe.

    FOLDER is from 'qpass quantize': its model, images and recipe are measured again. MODEL is as for
    'qpass quantize' and needs --calib and --output. Nothing is quantized.
    """
    import qpass
    from qpass.cli.run_folder import SETTINGS
    from qpass.zoo.source_model import open_model

    if (Path(subject) / SETTINGS).is_file():
        given = {"--checkpoint": checkpoint, "--calib": calib, "--model-arg": model_args}
        if odd := [name for name, value in given.items() if value]:
            raise ConfigError(
                f"{odd[0]} beside a folder", where="qpass sensitivity", hint="the folder says which model it is of"
            )
        measured = _of_folder(Path(subject), config, output, batch_size, crop, resize, trust=trust)
    elif calib is None or output is None:
        name = "--calib" if calib is None else "--output"
        raise ConfigError(f"{name} is missing", where="qpass sensitivity", hint=f"{subject} is no folder of 'qpass quantize'")
    else:
        source = open_model(subject, checkpoint, **named_arguments(model_args))
        transform, _ = model_transform(source, calib, crop=crop, resize=resize)
        measured = _Subject(source.network, _drawn(calib, transform, calib_count, seed), config or "w8a8", seed, output, calib)
    measured.folder.mkdir(parents=True, exist_ok=True)
    with about_images(measured.calibration):
        found = qpass.sensitivity_report(
            measured.network, measured.batches(batch_size), measured.config, exclude=exclude, seed=measured.seed
        )
    written = _write(found, measured.folder)
    if as_json:
        click.echo(found.to_json())
        return
    console.print(found.text(top), highlight=False, soft_wrap=True)
    console.print(f"\n{found.rules_yaml(top)}", highlight=False, soft_wrap=True)
    console.print(f"written: {', '.join(map(str, written))}", highlight=False, soft_wrap=True)


def _write(found: SensitivityReport, folder: Path) -> list[Path]:
    """Writes JSON, and a plot if matplotlib is installed."""
    written = [folder / SENSITIVITY]
    write_whole(folder / SENSITIVITY, found.to_json())
    try:
        write_whole(folder / PLOT, found.to_svg())
    except DataError as error:
        note(f"note: no plot is written: {error}")
    else:
        written.append(folder / PLOT)
    return written


def _drawn(path: Path, transform: Any, count: int, seed: int) -> Any:
    from qpass.data import draw_images, open_images

    return draw_images(open_images(path, transform, needs_labels=False), count, seed=seed)


def _of_folder(
    folder: Path, config: str | None, output: Path | None, batch_size: int, crop: int | None, resize: int | None, *, trust: bool
) -> _Subject:
    """Builds the model of a folder again, and checks that it is the one in its float file.

    Raises:
        DataError: If its settings name code or arguments of code, and ``trust`` is not given: the
            folder may be a stranger's.
    """
    from qpass.cli.run_folder import SETTINGS, read_report, read_settings
    from qpass.config import QuantConfig
    from qpass.data import open_images
    from qpass.zoo.source_model import open_model

    settings = read_settings(folder)
    if not settings.calibration:
        raise DataError("names no calibration images", where=str(folder / SETTINGS), hint="give MODEL and --calib instead")
    if not trust and (":" in settings.model or settings.model_args):
        arguments = ", ".join((settings.model, *settings.model_args))
        hint = "--trust runs it, if the folder is yours"
        raise DataError(f"names code to run: {arguments}", where=str(folder / SETTINGS), hint=hint)
    recipe = config or QuantConfig.from_any(read_report(folder).config)
    checkpoint = Path(settings.checkpoint) if settings.checkpoint else None
    network = open_model(settings.model, checkpoint, **named_arguments(tuple(settings.model_args))).network
    source = open_images(settings.calibration, saved_transform(folder, crop, resize), needs_labels=False)
    places = {name: place for place, name in enumerate(source.names)}
    if missing := [name for name in settings.images if name not in places]:
        raise DataError(
            f"lacks {missing[0]} (and {len(missing) - 1} more)", where=settings.calibration, expected="the calibration images"
        )
    images = source.take([places[name] for name in settings.images])
    subject = _Subject(network, images, recipe, settings.seed, output or folder, Path(settings.calibration))
    _check_same(folder, subject, batch_size)
    return subject


def _check_same(folder: Path, subject: _Subject, batch_size: int) -> None:
    """Compares the model with the float file of the folder, on one batch.

    Raises:
        DataError: If they differ.
    """
    import torch

    import qpass
    from qpass.cli.run_folder import FLOAT, GRAPH, file_in

    images = next(subject.batches(batch_size))
    expected = qpass.onnxruntime_model(qpass.load(file_in(folder, GRAPH)), file_in(folder, FLOAT))(images)
    with torch.no_grad():
        found = subject.network(images)
    pairs = zip(_floats(expected), _floats(found), strict=True)
    if any(a.shape != b.shape or (a - b).abs().max() > _SAME * a.abs().max() for a, b in pairs):
        raise DataError(
            "is not of the model that its settings name",
            where=str(folder / FLOAT),
            hint="give MODEL with --checkpoint, --calib and --output instead",
        )


def _floats(outputs: Any) -> list[Tensor]:
    import torch.utils._pytree as pytree

    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
