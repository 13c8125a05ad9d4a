"""The output folder of ``qpass quantize``: its file names, and its settings, checked on reading."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qpass.config.fields import check_fields, instance, mapping_of_texts, several, text, whole
from qpass.data import ImageTransform
from qpass.errors import ConfigError, DataError, check_keys
from qpass.runtime.arguments import SEEDS
from qpass.runtime.atomic_write import remove_drafts, write_whole
from qpass.runtime.folder_lock import alone_in

if TYPE_CHECKING:
    from qpass.report import QuantReport

MODEL, GRAPH, FLOAT, REPORT, FIGURES, SETTINGS = (
    "model.onnx", "model.qpass", "float.onnx", "report.html", "report.json", "settings.json",
)  # fmt: skip
#: How images become the input of ``MODEL``, and a script that runs it.
IMAGES, SCRIPT = "preprocessing.json", "run.py"
#: Where learned blocks are kept until everything is written, and where scores of candidates are.
BLOCKS, CANDIDATES = "blocks", "candidates"
#: The recipe that was chosen.
RECIPE = "recipe.yaml"
#: What ``qpass sensitivity`` writes.
SENSITIVITY, PLOT = "sensitivity.json", "sensitivity.svg"


def _names(value: Any, where: str) -> tuple[str, ...]:
    """Accepts a list or tuple of texts, which may be empty."""
    return () if value in ([], ()) else several(text, "a list of names")(value, where)


_CHECKS = {
    "model": text,
    "calibration": text,
    "transform": instance(ImageTransform, "a mapping"),
    "seed": whole(0, SEEDS - 1),
    "images": _names,
    "checkpoint": text,
    "model_args": _names,
    "companions": _names,
    "command": _names,
    "versions": mapping_of_texts,
    "digests": mapping_of_texts,
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the other commands need to know about a run.

    Attributes:
        model: The model's name.
        calibration: Path of the calibration images; empty for none.
        transform: Preprocessing of images.
        seed: Seed of the run, which drew the images too.
        images: Names of the calibration images, in the order drawn: paths relative to ``calibration``.
            Empty if a version of qpass wrote the folder that did not record them.
        checkpoint: Path of the weights; empty for those of the model's factory, or if a version of
            qpass wrote the folder that did not record it.
        model_args: Arguments of the model's factory, each as ``name=value``.
        companions: Names of the files that were copied from the model's folder.
        command: The command, with its arguments as they were given.
        versions: Versions of qpass, Python and other packages.
        digests: SHA-256 of the float model's weights, of the calibration images after preprocessing, of
            the checkpoint, and of the files that the run wrote.
    """

    model: str
    calibration: str
    transform: ImageTransform
    seed: int = 0
    images: Sequence[str] = ()
    checkpoint: str = ""
    model_args: Sequence[str] = ()
    companions: Sequence[str] = ()
    command: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self, _CHECKS)

    def write(self, folder: Path) -> None:
        """Writes the settings into the folder."""
        write_whole(folder / SETTINGS, json.dumps(asdict(self), indent=1))


@contextmanager
def owned_folder(folder: Path, *, keeps_blocks: bool, discard: bool) -> Iterator[None]:
    """Locks an output folder for one run until the block ends, then removes the run's intermediate files.

    Args:
        folder: The folder; it must exist.
        keeps_blocks: Whether the run saves learned blocks in ``BLOCKS``.
        discard: Whether to delete blocks and candidates that another run left there.

    Raises:
        DataError: If another run is writing there, or has left blocks that this run would not use.
    """
    blocks = folder / BLOCKS
    with alone_in(folder):
        if blocks.is_symlink() or (blocks.exists() and not blocks.is_dir()):
            raise DataError("is no folder", where=str(blocks), hint="move it away: learned blocks are kept there")
        if discard:
            _discard(blocks)
            _discard(folder / CANDIDATES)
        elif blocks.exists() and not keeps_blocks:
            raise DataError(
                "holds blocks of a run that learns and has not finished",
                where=str(blocks),
                expected="an output folder of its own for each run",
                hint="give another --output; or --discard deletes them; or the command of that run finishes it",
            )
        yield
        if keeps_blocks:
            shutil.rmtree(blocks, ignore_errors=True)
        remove_drafts(folder)


def exported_name(target: str, weight_type: str) -> str:
    """Returns the name of the file that ``qpass export`` writes for a target, with weights of a type."""
    from qpass.backends.onnx_qdq.capabilities import WeightType

    return f"model-{target}.onnx" if weight_type == WeightType.AUTO else f"model-{target}-{weight_type}.onnx"


def remove_derived(folder: Path) -> None:
    """Removes what was made from the files of an earlier run: reports, and files of ``qpass export``."""
    from qpass.backends.onnx_qdq.capabilities import WeightType
    from qpass.backends.onnx_qdq.targets import TARGETS

    exports = [exported_name(target, weight_type) for target in TARGETS for weight_type in WeightType]
    for name in (REPORT, FIGURES, SENSITIVITY, PLOT, *exports):
        (folder / name).unlink(missing_ok=True)


def _discard(blocks: Path) -> None:
    try:
        shutil.rmtree(blocks)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise DataError(f"cannot be deleted ({error.strerror})", where=str(error.filename or blocks)) from error


def read_settings(folder: Path) -> Settings:
    """Reads the settings of a folder.

    Raises:
        DataError: If there are none, or a value is missing or invalid.
    """
    path = file_in(folder, SETTINGS)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Settings(**_known(data, "settings", Settings) | {"transform": _transform(data["transform"])})
    except (ConfigError, KeyError, TypeError, ValueError, OSError, RecursionError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else error
        raise DataError(f"is damaged: {what}", where=str(path), hint="quantize again") from error


def companions_of(folder: Path) -> Sequence[str]:
    """Returns the names of the files that an earlier run copied from its model's folder."""
    try:
        return read_settings(folder).companions
    except DataError:
        return ()


def read_report(folder: Path) -> QuantReport:
    """Reads the report of a folder.

    Raises:
        DataError: If there is none, or it is damaged.
    """
    from qpass.report import QuantReport

    path = file_in(folder, FIGURES)
    try:
        return QuantReport.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"cannot be read: {error}", where=str(path)) from error


def _transform(data: Any) -> ImageTransform:
    return ImageTransform(**_known(data, "transform", ImageTransform))


def _known(data: Any, where: str, kind: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ConfigError(f"got a {type(data).__name__}", where=where, expected="a mapping")
    check_keys(data, (each.name for each in fields(kind)), where)
    return data


def file_in(folder: Path, name: str) -> Path:
    """Returns the path of a file of the folder.

    Raises:
        DataError: If the file does not exist.
    """
    if not (folder / name).is_file():
        raise DataError(f"has no {name}", where=str(folder), expected="the --output folder of 'qpass quantize'")
    return folder / name
