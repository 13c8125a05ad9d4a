"""Checks calibration loaders and turns their batches into calls of the model."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.utils._pytree as pytree
from numpy.typing import NDArray
from torch import Tensor, nn

from qpass.data.structure import check_structure, check_values, forward_parameters, named_leaves, takes_any_name
from qpass.data.targets import needless_targets
from qpass.data.variety import Variety
from qpass.errors import CalibrationError

#: What a loader yields: a tensor, an (inputs, target) pair, or named inputs (a mapping, a dataclass
#: or a NamedTuple).
Batch = Any
#: Returns, for each tensor of a call, the dims in which batches may differ.
OpenDims = Callable[["ModelInputs"], Sequence[Iterable[int]]]


class ModelInputs(NamedTuple):
    """One call of the model: ``model(*args, **kwargs)``."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def to(self, device: torch.device | str) -> ModelInputs:
        """Returns the inputs with every tensor on ``device``."""
        move = lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf  # noqa: E731
        return ModelInputs(*pytree.tree_map(move, (self.args, self.kwargs)))

    def copied(self) -> ModelInputs:
        """Returns the inputs with every tensor cloned."""
        copy = lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf  # noqa: E731
        return ModelInputs(*pytree.tree_map(copy, (self.args, self.kwargs)))


def model_inputs(batch: Batch, model: nn.Module) -> ModelInputs:
    """Turns one batch into a call of the model.

    A tensor becomes the only argument. In a pair or longer sequence, the first entry is the input and
    the rest are targets; the input may be a list of images, as for detectors. Entries of a mapping,
    or fields of a dataclass, become keyword arguments if the model's forward has parameters of these
    names (all of them if it takes ``**kwargs``). So do fields of a NamedTuple whose first field is such
    a parameter. A ``ModelInputs`` is taken as it is.

    Raises:
        CalibrationError: If the batch is none of these.
    """
    if isinstance(batch, ModelInputs):
        return ModelInputs(tuple(map(_plain, batch.args)), {name: _plain(value) for name, value in batch.kwargs.items()})
    if _is_values(batch):
        return ModelInputs((_plain(batch),), {})
    names = forward_parameters(model)
    if (fields := _fields(batch, names)) is not None:
        kwargs = {str(key): _plain(value) for key, value in fields.items() if key in names or takes_any_name(model)}
        if not kwargs:
            raise CalibrationError(
                f"a batch has the keys {sorted(map(str, fields))}",
                where="calib_loader",
                expected=f"some of the model's inputs {list(names)}",
            )
        return ModelInputs((), kwargs)
    if isinstance(batch, (tuple, list)) and batch and (_is_values(batch[0]) or _fields(batch[0], names) is not None):
        return model_inputs(batch[0], model)
    if isinstance(batch, (tuple, list)) and batch and _is_image_list(batch[0]):
        return ModelInputs(([_plain(image) for image in batch[0]],), {})
    raise CalibrationError(
        f"a batch is a {type(batch).__name__}",
        where="calib_loader",
        expected="a tensor, an (inputs, target) pair or a mapping of inputs by name",
        hint="pass transform_fn= to turn your batches into one of these",
    )


def _fields(batch: Any, names: Container[str]) -> dict[Any, Any] | None:
    """Returns inputs by name, or None if a batch does not name them.

    A NamedTuple does if the forward has a parameter named like its first field, so (image, label) may
    be an input and its target.
    """
    if isinstance(batch, Mapping):
        return {key: batch[key] for key in batch}
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    if isinstance(batch, tuple) and (fields := getattr(batch, "_fields", ())) and fields[0] in names:
        return dict(zip(fields, batch, strict=True))
    return None


def _plain(value: Any) -> Any:
    """Converts arrays to tensors, and mappings that pytree does not know to dicts."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value if value.flags.writeable else value.copy())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping) and type(value) not in pytree.SUPPORTED_NODES:
        value = {key: value[key] for key in value}
    if type(value) in (dict, list, tuple):
        items = value.items() if type(value) is dict else enumerate(value)
        plain = {key: _plain(item) for key, item in items}
        return plain if type(value) is dict else type(value)(plain.values())
    return value


def _is_image_list(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and bool(value) and all(isinstance(x, (Tensor, np.ndarray)) for x in value)


def checked_batches(
    loader: Iterable[Batch],
    model: nn.Module,
    transform_fn: Callable[[Any], Batch] | None = None,
    *,
    same_shapes: bool = True,
    open_dims: OpenDims | None = None,
) -> Iterator[ModelInputs]:
    """Yields every batch of a loader, checked and copied where the loader might overwrite it.

    Drops, with a warning, targets that do not affect the model's output and keys that its forward
    does not accept. Warns if what a sequence holds behind its first entry may be inputs.

    Args:
        loader: Any iterable of batches, one-shot or not; or a single tensor, taken as one batch.
        model: The model that the batches are for.
        transform_fn: Turns the loader's items into batches.
        same_shapes: Whether all batches must match the inputs, constants and shapes of the first,
            except for dim 0.
        open_dims: Other dims in which batches may differ; None for none.

    Raises:
        CalibrationError: If there is no batch, or a batch is empty, holds NaN or infinity, or differs
            from the first in its inputs, constants or shapes.
    """
    if isinstance(loader, (Tensor, np.ndarray)):
        loader = [loader]
    if not isinstance(loader, Iterable):
        raise CalibrationError(f"got a {type(loader).__name__}", where="calib_loader", expected="an iterable of batches")
    own = transform_fn is None and type(loader) in (list, tuple)  # other loaders may reuse their tensors
    first, dropped, variety = None, set[str](), Variety()
    for index, raw in enumerate(loader):
        source = transform_fn(raw) if transform_fn else raw
        batch, where = model_inputs(source, model), f"calib_loader, batch {index}"
        if first is None:
            dropped = needless_targets(model, batch.kwargs)
            if not isinstance(source, ModelInputs):
                _say_what_is_dropped(source, batch, model, dropped)
                _say_inputs_taken_as_targets(source, model)
        batch = batch._replace(kwargs={key: value for key, value in batch.kwargs.items() if key not in dropped})
        named = named_leaves(*batch, model)
        if first is None:
            first, first_named = batch, named
        if same_shapes:
            check_values(named, where)
            if index == 0:
                _say_constants(named)
            check_structure(named, first_named, where)
        _check(batch, first if same_shapes else batch, where, open_dims)
        variety.update(named)
        yield batch if own else batch.copied()
    if first is None:
        raise CalibrationError("no batches", where="calib_loader", expected="at least one batch of inputs")
    variety.warn()


def example_call(batch: Batch, model: nn.Module, first: ModelInputs) -> ModelInputs:
    """Returns a copied batch to trace with.

    Raises:
        CalibrationError: If its inputs or constants differ from the first calibration batch's.
    """
    call = model_inputs(batch, model)
    dropped = needless_targets(model, call.kwargs) - first.kwargs.keys()
    call = call._replace(kwargs={key: value for key, value in call.kwargs.items() if key not in dropped}).copied()
    check_structure(named_leaves(*call, model), named_leaves(*first, model), "example_inputs")
    return call


def _say_what_is_dropped(source: Batch, batch: ModelInputs, model: nn.Module, targets: set[str]) -> None:
    names = forward_parameters(model)
    while isinstance(source, (tuple, list)) and source and _fields(source, names) is None:
        source = source[0]
    unknown = (_fields(source, names) or {}).keys() - batch.kwargs.keys()
    reasons = [(unknown, "its forward does not name"), (targets, "only its loss needs")]
    said = [f"{sorted(map(str, keys))}, which {reason}" for keys, reason in reasons if keys]
    if said:
        warnings.warn(f"the model is not given {' and '.join(said)}", stacklevel=4)


def _say_inputs_taken_as_targets(source: Batch, model: nn.Module) -> None:
    """Warns if tensors after the first of a sequence are no labels and the forward takes more inputs."""
    names = forward_parameters(model)
    if not isinstance(source, (tuple, list)) or not _is_values(source[0]) or _fields(source, names) is not None:
        return
    parameters = names.values()
    further = [str(p) if p.kind is p.VAR_POSITIONAL else p.name for p in parameters if p.kind in (0, 1, 2)][1:]
    if any(p.kind is p.VAR_POSITIONAL for p in list(parameters)[:1]):
        further = [str(p) for p in parameters][:1]
    entries = [index for index, value in enumerate(source) if index and _is_values(value) and not _is_labels(value)]
    if further and entries:
        warnings.warn(
            f"the model is not given entries {entries} of a batch: in a sequence, all but the first are targets. Its forward "
            f"also takes {', '.join(further)}: to pass them, yield a mapping of inputs by name or a qpass.data.ModelInputs",
            stacklevel=4,
        )


def _is_values(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray))


def _is_labels(value: Tensor | NDArray[Any]) -> bool:
    """Returns whether values look like class indices, one a sample."""
    return torch.as_tensor(value).dtype in (torch.int64, torch.int32, torch.uint8) and value.ndim <= 1


def _say_constants(named: Mapping[str, Any]) -> None:
    constants = [f"{name}={value!r}" for name, value in named.items() if not isinstance(value, Tensor) and value is not None]
    if constants:
        warnings.warn(f"{', '.join(constants)}: constants of the graph, which refuses other values", stacklevel=4)


def _check(batch: ModelInputs, first: ModelInputs, where: str, open_dims: OpenDims | None) -> None:
    tensors, before = _tensors(batch), _tensors(first)
    if not tensors:
        raise CalibrationError("no tensor", where=where, expected="at least one input tensor")
    dims = [set(dims) for dims in open_dims(first)] if open_dims else [set[int]() for _ in tensors]
    for tensor, reference, may_differ in zip(tensors, before, dims, strict=True):
        _check_tensor(tensor, where)
        kept = [(n, size) for n, size in enumerate(reference.shape) if n > 0 and n not in may_differ]
        if (
            tensor.dim() != reference.dim()
            or any(tensor.shape[n] != size for n, size in kept)
            or tensor.dtype != reference.dtype
        ):
            raise CalibrationError(
                f"shape {tuple(tensor.shape)} {tensor.dtype}",
                where=where,
                expected=f"(batch, {', '.join(map(str, reference.shape[1:]))}) {reference.dtype}, as the first batch",
                hint="dynamic_shapes= leaves other dims open" if tensor.dim() == reference.dim() else "",
            )


def _check_tensor(tensor: Tensor, where: str) -> None:
    if tensor.is_meta or tensor.layout is not torch.strided or tensor.is_quantized:
        kind = "quantized" if tensor.is_quantized else "meta" if tensor.is_meta else str(tensor.layout)
        raise CalibrationError(f"a tensor that is {kind}", where=where, expected="dense tensors with values")
    if tensor.numel() == 0:
        raise CalibrationError(f"an empty tensor of shape {tuple(tensor.shape)}", where=where, expected="at least one sample")
    # Attention masks contain -inf. Elsewhere, the first observed layer rejects it.
    if tensor.is_floating_point() and not (tensor.float() < float("inf")).all():
        raise CalibrationError("NaN or infinite values", where=where, hint="look at the files and at the preprocessing")


def _tensors(batch: ModelInputs) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves((batch.args, batch.kwargs)) if isinstance(leaf, Tensor)]
