"""What a calibration loader may be, and how its batches become calls of the model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from qpass.errors import CalibrationError

Batch = Any  #: What a loader yields: a tensor, an (inputs, target) pair, or a mapping of inputs by name.


class ModelInputs(NamedTuple):
    """One call of the model: ``model(*args, **kwargs)``."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def to(self, device: torch.device | str) -> ModelInputs:
        """Returns the inputs with every tensor on ``device``."""
        move = lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf  # noqa: E731
        return ModelInputs(*pytree.tree_map(move, (self.args, self.kwargs)))


def model_inputs(batch: Batch, model: nn.Module) -> ModelInputs:
    """Turns one batch into a call of the model.

    A tensor is the one argument; of a pair or a longer sequence the first entry is the input and the rest are targets, and
    that input may be a list of images, as detectors take them; the entries of a mapping that the model's forward names are
    keyword arguments (all of them where it takes ``**kwargs``).

    Raises:
        CalibrationError: If the batch is none of these.
    """
    if isinstance(batch, ModelInputs):
        return batch
    if isinstance(batch, np.ndarray):
        batch = torch.from_numpy(batch)
    if isinstance(batch, Tensor):
        return ModelInputs((batch,), {})
    if isinstance(batch, Mapping):
        names = inspect.signature(model.forward).parameters
        kwargs = {key: value for key, value in batch.items() if key in names}
        if not kwargs:
            raise CalibrationError(
                f"a batch has the keys {sorted(batch)}",
                where="calib_loader",
                expected=f"some of the model's inputs {list(names)}",
            )
        return ModelInputs((), kwargs)
    if isinstance(batch, (tuple, list)) and batch and isinstance(batch[0], (Tensor, np.ndarray, Mapping)):
        return model_inputs(batch[0], model)
    if isinstance(batch, (tuple, list)) and batch and _is_image_list(batch[0]):
        return ModelInputs((list(batch[0]),), {})
    raise CalibrationError(
        f"a batch is a {type(batch).__name__}",
        where="calib_loader",
        expected="a tensor, an (inputs, target) pair or a mapping of inputs by name",
        hint="pass transform_fn= to turn your batches into one of these",
    )


def _is_image_list(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and bool(value) and all(isinstance(image, Tensor) for image in value)


def checked_batches(
    loader: Iterable[Batch],
    model: nn.Module,
    transform_fn: Callable[[Any], Batch] | None = None,
    *,
    same_shapes: bool = True,
) -> Iterator[ModelInputs]:
    """Reads a loader to its end and yields every batch, checked.

    Args:
        loader: Anything that yields batches, once or again; a list of them too; or one tensor, taken as one batch.
        model: The model that the batches are for.
        transform_fn: Turns what the loader yields into a batch.
        same_shapes: Whether all batches must have the shapes of the first, but for dim 0.

    Raises:
        CalibrationError: If there is no batch, or one is empty, holds NaN or infinity, or has other shapes than the first.
    """
    if isinstance(loader, (Tensor, np.ndarray)):
        loader = [loader]
    if not isinstance(loader, Iterable):
        raise CalibrationError(f"got a {type(loader).__name__}", where="calib_loader", expected="an iterable of batches")
    first = None
    for index, raw in enumerate(loader):
        batch = model_inputs(transform_fn(raw) if transform_fn else raw, model)
        first = batch if first is None else first
        _check(batch, first if same_shapes else batch, f"calib_loader, batch {index}")
        yield batch
    if first is None:
        raise CalibrationError("no batches", where="calib_loader", expected="at least one batch of inputs")


def _check(batch: ModelInputs, first: ModelInputs, where: str) -> None:
    tensors = [leaf for leaf in pytree.tree_leaves((batch.args, batch.kwargs)) if isinstance(leaf, Tensor)]
    before = [leaf for leaf in pytree.tree_leaves((first.args, first.kwargs)) if isinstance(leaf, Tensor)]
    if not tensors:
        raise CalibrationError("no tensor", where=where, expected="at least one input tensor")
    for tensor, reference in zip(tensors, before, strict=False):
        if tensor.is_meta or tensor.layout is not torch.strided or tensor.is_quantized:
            kind = "quantized" if tensor.is_quantized else "meta" if tensor.is_meta else str(tensor.layout)
            raise CalibrationError(f"a tensor that is {kind}", where=where, expected="dense tensors with values")
        if tensor.numel() == 0:
            raise CalibrationError(
                f"an empty tensor of shape {tuple(tensor.shape)}", where=where, expected="at least one sample"
            )
        if tensor.shape[1:] != reference.shape[1:] or tensor.dtype != reference.dtype:
            raise CalibrationError(
                f"shape {tuple(tensor.shape)} {tensor.dtype}",
                where=where,
                expected=f"(batch, {', '.join(map(str, reference.shape[1:]))}) {reference.dtype}, as the first batch",
            )
        # -inf is what masks hide with; in what is no mask the first layer that is observed refuses it.
        if tensor.is_floating_point() and not (tensor.float() < float("inf")).all():
            raise CalibrationError("NaN or infinite values", where=where, hint="look at the files and at the preprocessing")


def spread_samples(batches: Sequence[ModelInputs], samples: int | None) -> Sequence[ModelInputs]:
    """Returns ``samples`` rows spread evenly over the batches, in batches as large as the first.

    A folder of images is sorted by class: its first rows show a few classes only.

    Args:
        batches: Calls of the model.
        samples: How many rows, rounded up to whole batches; None, or more than there are, takes the batches as they are.
    """
    size, total = batch_size(batches[0]), sum(map(batch_size, batches))
    wanted = total if samples is None else -(-samples // size) * size
    if wanted >= total:
        return batches
    chosen = torch.arange(wanted) * total // wanted
    rows_of, start = [], 0
    for batch in batches:
        end = start + batch_size(batch)
        rows_of.append(chosen[(chosen >= start) & (chosen < end)] - start)
        start = end
    first, spec = pytree.tree_flatten(batches[0])
    taken = [
        [leaf[rows] if _has_rows(leaf, batch_size(batch)) else None for leaf in pytree.tree_leaves(batch)]
        for batch, rows in zip(batches, rows_of, strict=True)
    ]
    columns = [
        torch.cat(column).split(size) if all(part is not None for part in column) else [leaf] * (wanted // size)
        for leaf, column in zip(first, zip(*taken, strict=True), strict=True)
    ]
    return [pytree.tree_unflatten(list(row), spec) for row in zip(*columns, strict=True)]


def even_batches(batches: Iterable[ModelInputs], *, least: int, most: int) -> Iterator[ModelInputs]:
    """Yields the same rows in the same order, in batches that are neither small, which is slow, nor too large for the memory.

    Batches of other shapes, or with inputs that have no rows, are not put together.

    Args:
        batches: Calls of the model.
        least: Smaller batches are put together until they have so many rows, where ``most`` allows it.
        most: Larger ones are cut into equal parts.
    """
    waiting: list[ModelInputs] = []
    for batch in batches:
        size = batch_size(batch)
        if waiting and (sum(map(batch_size, waiting)) + size > most or not _go_together(waiting[0], batch)):
            yield _together(waiting)
            waiting = []
        if size > most:
            yield from split_rows(batch, -(-size // -(-size // most)), keep_rest=True)
            continue
        waiting.append(batch)
        if sum(map(batch_size, waiting)) >= least or not _go_together(batch, batch):
            yield _together(waiting)
            waiting = []
    if waiting:
        yield _together(waiting)


def _go_together(first: ModelInputs, second: ModelInputs) -> bool:
    """Tells whether two batches are rows of one larger batch."""
    (a, first_spec), (b, second_spec) = pytree.tree_flatten(first), pytree.tree_flatten(second)
    rows = batch_size(first), batch_size(second)
    return first_spec == second_spec and all(
        _has_rows(x, rows[0]) and _has_rows(y, rows[1]) and x.shape[1:] == y.shape[1:] for x, y in zip(a, b, strict=True)
    )


def _together(batches: Sequence[ModelInputs]) -> ModelInputs:
    if len(batches) == 1:
        return batches[0]
    joined: ModelInputs = pytree.tree_map(lambda *leaves: torch.cat(leaves), *batches)
    return joined


def batch_size(batch: Any) -> int:
    """Returns the size of dim 0 of the first tensor in nested inputs, 1 where there is none."""
    return next((leaf.shape[0] for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()), 1)


def split_rows(batch: ModelInputs, rows: int, *, keep_rest: bool = False) -> list[ModelInputs]:
    """Cuts a batch into batches of ``rows`` rows; what is left over at the end is dropped, or is a smaller batch."""
    starts = range(0, batch_size(batch) - (0 if keep_rest else rows - 1), rows)
    return [_take_rows(batch, slice(start, start + rows)) for start in starts]


def _take_rows(batch: ModelInputs, rows: slice) -> ModelInputs:
    """Takes some rows of every tensor that has the batch's; what has not is the same for all rows."""
    size = batch_size(batch)
    take = lambda leaf: leaf[rows] if _has_rows(leaf, size) else leaf  # noqa: E731
    taken: ModelInputs = pytree.tree_map(take, batch)
    return taken


def _has_rows(leaf: Any, size: int) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == size
