"""Float models by name: timm's, or a factory of the user's own, with a checkpoint from disk."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from torch import nn

from qpass.data import ImageTransform
from qpass.errors import DataError, nearest


def create_model(name: str, checkpoint: str | Path | None = None, **kwargs: Any) -> nn.Module:
    """Returns a float model in eval mode.

    Args:
        name: A timm model's name, or ``package.module:factory`` for a callable that returns a model.
        checkpoint: A safetensors or torch file of its weights, read without executing anything in it; None leaves the
            weights as the factory made them (random, for timm).
        **kwargs: Passed to the factory.

    Raises:
        DataError: If there is no such model, or the checkpoint cannot be read or does not fit.
    """
    model = _from_factory(name, kwargs) if ":" in name else _from_timm(name, kwargs)
    if checkpoint is not None:
        load_checkpoint(model, Path(checkpoint))
    return model.eval()


def _from_timm(name: str, kwargs: dict[str, Any]) -> nn.Module:
    import timm  # slow to import

    if not timm.is_model(name):
        raise DataError(f"no model is called {name!r}", where="timm", hint=nearest(name, timm.list_models()))
    model: nn.Module = timm.create_model(name, **kwargs)
    return model


def _from_factory(name: str, kwargs: dict[str, Any]) -> nn.Module:
    module, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise DataError(f"cannot be imported: {error}", where=name, expected="package.module:factory") from error
    model = factory(**kwargs)
    if not isinstance(model, nn.Module):
        raise DataError(f"gave a {type(model).__name__}", where=name, expected="a torch.nn.Module")
    return model


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """Loads a checkpoint into a model, all of it or nothing.

    Raises:
        DataError: If the file cannot be read, or its tensors are not the model's.
    """
    from timm.models import load_state_dict  # slow to import

    if not path.is_file():
        raise DataError("no such file", where=str(path), expected="a checkpoint")
    try:
        state = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # torch, pickle, zip and safetensors raise their own kinds
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"cannot be read: {first[:200]}", where=str(path), hint="is the file complete?") from error
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
    """Returns the preprocessing that a timm model was trained with; ImageNet's at 224 for others."""
    from timm.data import resolve_model_data_config  # slow to import

    if not hasattr(model, "pretrained_cfg"):
        return ImageTransform()
    config = resolve_model_data_config(model)
    crop = int(config["input_size"][-1])
    return ImageTransform(crop=crop, resize=round(crop / config["crop_pct"]), mean=config["mean"], std=config["std"])
