"""Float models by name: timm's, or a factory of the user's own, with a checkpoint from disk."""

from __future__ import annotations

import importlib
import math
import operator
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from qpass.data import ImageTransform
from qpass.errors import DataError, nearest

#: Endings of files of weights.
WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar")


def create_model(name: str, checkpoint: str | Path | None = None, **kwargs: Any) -> nn.Module:
    """Returns a float model in eval mode.

    Args:
        name: A timm model's name, or ``package.module:factory`` for a callable that returns a model, or
            for a model itself. The module may be in the current folder.
        checkpoint: A safetensors or torch file of its weights, read without executing anything in it;
            None keeps the factory's weights (random, for timm).
        **kwargs: Passed to the factory.

    Raises:
        DataError: If there is no such model, its factory fails, or the checkpoint cannot be read or
            does not fit.
    """
    model = _from_factory(name, kwargs) if ":" in name else _from_timm(name, kwargs)
    if checkpoint is not None:
        load_checkpoint(model, Path(checkpoint))
    return model.eval()


def _from_timm(name: str, kwargs: dict[str, Any]) -> nn.Module:
    import timm  # slow to import

    if not timm.is_model(name):
        raise DataError(
            f"no model is called {name!r}",
            where="timm",
            expected="a timm model's name, package.module:factory, or a model's folder",
            hint=nearest(name, timm.list_models()),
        )
    return _call(timm.create_model, (name,), kwargs, name)


def load_timm_folder(folder: Path) -> nn.Module:
    """Returns the model of a folder that timm wrote for the Hugging Face hub, in eval mode.

    Raises:
        DataError: If timm cannot load it.
    """
    import timm  # slow to import

    return _call(timm.create_model, (f"local-dir:{folder}",), {"pretrained": True}, str(folder)).eval()


def _from_factory(name: str, kwargs: dict[str, Any]) -> nn.Module:
    module, _, attribute = name.partition(":")
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)  # as `python -m` does, but an installed command does not
    try:
        factory = operator.attrgetter(attribute)(importlib.import_module(module))
    except (Exception, SystemExit) as error:  # a module may raise anything while it is imported
        raise DataError(f"cannot be imported: {_words(error)}", where=name, expected="package.module:factory") from error
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        raise DataError(f"is a {type(factory).__name__}", where=name, expected="a callable that returns a torch.nn.Module")
    return _call(factory, (), kwargs, name)


def _call(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> nn.Module:
    try:
        model = factory(*args, **kwargs)
    except (Exception, SystemExit) as error:  # a factory may raise anything
        given = ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
        raise DataError(f"failed: {_words(error)}", where=f"{name}({given})", expected="a torch.nn.Module") from error
    if not isinstance(model, nn.Module):
        raise DataError(f"gave a {type(model).__name__}", where=name, expected="a torch.nn.Module")
    return model


def _words(error: BaseException) -> str:
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first[:200]}" if first else type(error).__name__


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """Loads a checkpoint into a model, all of it or nothing.

    Raises:
        DataError: If the file cannot be read, or its tensors do not match the model's.
    """
    from timm.models import load_state_dict  # slow to import

    if not path.is_file():
        raise DataError("is a folder" if path.is_dir() else "no such file", where=str(path), expected="a checkpoint")
    try:
        state = load_state_dict(str(path), weights_only=True)
        if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
            raise DataError("holds no mapping of names to tensors", where=str(path), expected="a state_dict")
    except DataError:
        raise
    except Exception as error:  # torch, pickle, zip and safetensors raise their own kinds
        first = next(iter(str(error).splitlines()), type(error).__name__)
        hint = "is the file complete?" if path.suffix in WEIGHTS else "are these weights, or the calibration images?"
        raise DataError(f"cannot be read: {first[:200]}", where=str(path), hint=hint) from error
    own = model.state_dict()
    wrong = [f"{k} {tuple(v.shape)}" for k, v in state.items() if k in own and own[k].shape != v.shape]
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    for what, keys in (("lacks", missing), ("has the unknown", unknown), ("has another shape for", wrong)):
        if keys:
            raise DataError(
                f"{what} {keys[0]} (and {len(keys) - 1} more)",
                where=str(path),
                expected=f"the weights of {type(model).__name__}",
            )
    model.load_state_dict(state)


def default_transform(model: nn.Module) -> ImageTransform:
    """Returns the preprocessing that a timm model was trained with; ImageNet's at 224 for others.

    It equals ``timm.data.create_transform`` with the model's own data config, to the bit.
    """
    from timm.data import resolve_model_data_config  # slow to import

    if not knows_its_preprocessing(model):
        return ImageTransform()
    config = resolve_model_data_config(model)
    crop = tuple(config["input_size"][-2:])
    height, width = (math.floor(side / config["crop_pct"]) for side in crop)
    fit = {"squash": "stretch", "border": "contain"}.get(config["crop_mode"], "cover")
    return ImageTransform(
        crop=crop[0] if crop[0] == crop[1] else crop,
        resize=height if fit == "cover" and height == width else (height, width),
        mean=config["mean"],
        std=config["std"],
        interpolation=config["interpolation"],
        fit=fit,
        fill=[round(255 * value) for value in config["mean"]] if fit == "contain" else (0,),
    )


def knows_its_preprocessing(model: nn.Module) -> bool:
    """Returns whether a model says how its images are preprocessed, as timm's do in ``pretrained_cfg``."""
    return bool(getattr(model, "pretrained_cfg", None))


def class_names(model: nn.Module) -> list[str]:
    """Returns the names of a timm model's classes; empty if they are unknown.

    They are those of its config, or ImageNet's if the model has as many classes as its config says
    and these are a set of ImageNet's that timm knows.
    """
    from timm.data import ImageNetInfo, infer_imagenet_subset  # slow to import

    config = getattr(model, "pretrained_cfg", None) or {}
    count = getattr(model, "num_classes", None)
    names, described = config.get("label_names"), config.get("label_descriptions")
    if names:
        found = [str(described.get(name, name) if isinstance(described, Mapping) else name) for name in names]
    elif config.get("num_classes") == count and (subset := infer_imagenet_subset(model)):
        found = ImageNetInfo(subset).label_descriptions()
    else:
        found = []
    return found if len(found) == count else []
