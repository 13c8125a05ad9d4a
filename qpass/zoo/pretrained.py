"""Models of transformers and timm from a folder, or from the local cache of the Hugging Face hub."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from qpass.data import ImageTransform
from qpass.data.regular_file import read_text
from qpass.errors import DataError, QPassError
from qpass.runtime.extras import from_extra
from qpass.runtime.quiet import quiet_thread
from qpass.zoo.image_processor import processor_transform

CONFIG = "config.json"
#: The processor alone, or in one file with a tokenizer.
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
#: Files beside the weights by which others load a folder, such as optimum.
COMPANIONS = (
    CONFIG, *PROCESSORS, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "vocab.txt",
    "merges.txt", "spiece.model", "added_tokens.json", "chat_template.jinja",
)  # fmt: skip
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def find_folder(name: str) -> Path | None:
    """Returns the folder of a model: a path, or a hub name whose files are in the hub's local cache.

    Returns None if the name is neither.

    Raises:
        DataError: If a folder is no model's, or a hub name is not in the cache. Nothing is downloaded.
    """
    path = Path(name)
    if (path / CONFIG).is_file():
        return path
    if path.is_dir() and name != path.name:
        raise DataError(f"has no {CONFIG}", where=name, expected="a folder that save_pretrained of transformers or timm wrote")
    if path.exists() or not _HUB_NAME.fullmatch(name):
        return None
    with from_extra("transformers", name):
        from huggingface_hub import snapshot_download  # slow to import
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except Exception as error:  # the hub's own kinds; ValueErrors for names
        raise DataError(
            "is neither a folder nor in the local cache of the Hugging Face hub; qpass downloads nothing",
            where=name,
            hint=f"where there is a network, 'hf download {name}' fills the cache; or give the model's folder",
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """Returns a folder's ``config.json``.

    Raises:
        DataError: If it is no JSON object.
    """
    path = folder / CONFIG
    try:
        config = json.loads(read_text(path, "a configuration in JSON"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"cannot be read: {error}", where=str(path), expected="a configuration in JSON") from error
    if not isinstance(config, dict):
        raise DataError("is no JSON object", where=str(path), expected="a configuration")
    return config


def load_network(folder: Path, config: Mapping[str, Any]) -> nn.Module:
    """Returns the float model of a transformers folder, of the class that its config names.

    No code of the folder runs: models that bring their own are refused.

    Raises:
        DataError: If transformers is missing, has no such vision model, or the weights are not there or
            do not belong to the model.
    """
    transformers = _transformers(folder)
    names = config.get("architectures")
    where = str(folder / CONFIG)
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError("names no architectures", where=where, expected="a model that save_pretrained wrote")
    kind: Any = getattr(transformers, names[0], None)
    if kind is None or transformers.PreTrainedModel not in getattr(kind, "__mro__", ()):
        hint = "models that bring their own code are not loaded: pass package.module:factory" if "auto_map" in config else ""
        raise DataError(f"transformers {transformers.__version__} has no model {names[0]}", where=where, hint=hint)
    inputs = list(inspect.signature(kind.forward).parameters)[1:]
    if "pixel_values" not in inputs:
        raise DataError(f"{names[0]} takes no images", where=where, expected="a vision model, with pixel_values as input")
    if inputs[0] != "pixel_values":
        raise DataError(
            f"{names[0]} takes {inputs[0]} beside images",
            where=where,
            expected="a model of images alone",
            hint="in Python, qpass.quantize_graph takes batches with both",
        )
    # the folder has the backbone's weights too; transformers would download them first
    own = {"use_pretrained_backbone": False} if config.get("use_pretrained_backbone") else {}
    try:
        with quiet_thread():
            network, found = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True, **own)
    except Exception as error:  # transformers, safetensors and torch raise their own kinds
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"cannot be loaded: {first[:200]}", where=str(folder), hint="are all files complete?") from error
    for what, keys in (("lack", found["missing_keys"]), ("have another shape for", found.get("mismatched_keys"))):
        if keys:
            raise DataError(
                f"the weights {what} {min(map(str, keys))} (and {len(keys) - 1} more)",
                where=str(folder),
                expected=f"the weights of {names[0]}",
            )
    result: nn.Module = network.eval().float()
    return result


def load_transform(folder: Path, image_size: tuple[int, int] | None = None) -> ImageTransform | None:
    """Returns the preprocessing of a transformers folder; None if it has no processor.

    Raises:
        DataError: If the processor cannot be loaded, or a transform cannot do what it does.
    """
    transformers = _transformers(folder)
    path = next((folder / name for name in PROCESSORS if (folder / name).is_file()), None)
    if path is None:
        return None
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        return processor_transform(processor, str(path), image_size)
    except QPassError:
        raise
    except Exception as error:  # transformers raises its own kinds
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"cannot be loaded: {first[:200]}", where=str(path), expected="an image processor") from error


def class_names(config: Mapping[str, Any]) -> list[str]:
    """Returns the names of the classes in ``id2label``; empty if there are none, or only numbers."""
    labels = config.get("id2label")
    if not isinstance(labels, dict) or not all(str(key).isdigit() for key in labels):
        return []
    names = {int(key): str(name) for key, name in labels.items()}
    if sorted(names) != list(range(len(names))) or all(re.fullmatch(r"LABEL_\d+", name) for name in names.values()):
        return []
    return [names[index] for index in range(len(names))]


def companions_in(folder: Path) -> list[Path]:
    """Returns the files beside the weights by which other programs load a folder."""
    return [folder / name for name in COMPANIONS if (folder / name).is_file()]


def replace_companions(earlier: Sequence[str], files: Sequence[Path], output: Path) -> tuple[str, ...]:
    """Copies companions to an output folder, and removes those that an earlier run copied there.

    Args:
        earlier: Names of the files that an earlier run copied.
        files: The files of this run; files of ``output`` itself stay.
        output: The folder.

    Returns:
        The names of the files that were copied.
    """
    new = [file for file in files if file.resolve() != (output / file.name).resolve()]
    stale = set(earlier) - {file.name for file in files}
    for name in stale.intersection(COMPANIONS):  # and nothing else that settings may name
        (output / name).unlink(missing_ok=True)
    for file in new:
        shutil.copyfile(file, output / file.name)
    return tuple(file.name for file in new)


def _transformers(folder: Path) -> Any:
    with from_extra("transformers", str(folder)):
        import transformers  # slow to import
    return transformers
