"""Splits and concatenates batches along their rows (samples)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from qpass.data.batches import ModelInputs

#: Symbol of dim 0 for each tensor of a call, in flattened order; None if dim 0 does not count
#: samples. The first symbol is the batch dim; tensors with other symbols have their own row counts.
#: A layout of None infers the batch dim from sizes.
Layout = Sequence[str | None] | None


def batch_size(batch: Any, layout: Layout = None) -> int:
    """Returns the size of dim 0 of the first tensor with a batch dim, or 1 if there is none."""
    tensors = [leaf for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor)]
    if layout is not None and any(layout):
        return next(tensor.shape[0] for tensor, symbol in zip(tensors, layout, strict=True) if symbol)
    return next((tensor.shape[0] for tensor in tensors if tensor.dim()), 1)


def split_rows(batch: ModelInputs, rows: int, *, keep_rest: bool = False, layout: Layout = None) -> list[ModelInputs]:
    """Splits a batch into batches of ``rows`` rows; ``keep_rest`` keeps a smaller last one."""
    starts = range(0, batch_size(batch, layout) - (0 if keep_rest else rows - 1), rows)
    return [_take_rows(batch, slice(start, start + rows), layout) for start in starts]


def repeat_rows(batch: ModelInputs, times: int, layout: Layout = None) -> ModelInputs:
    """Returns a batch with its rows repeated ``times`` times, copy after copy."""
    leaves, spec = pytree.tree_flatten(batch)
    rows = zip(leaves, _has_rows(batch, layout), strict=True)
    repeated: ModelInputs = pytree.tree_unflatten([torch.cat([leaf] * times) if has else leaf for leaf, has in rows], spec)
    return repeated


def spread_samples(batches: Sequence[ModelInputs], samples: int | None, layout: Layout = None) -> Sequence[ModelInputs]:
    """Returns ``samples`` rows spread evenly over the batches, in batches of the first one's size.

    An image folder is sorted by class, so its first rows cover only a few classes. Takes whole
    batches if inputs have their own row counts or shapes vary.

    Args:
        batches: Calls of the model.
        samples: Number of rows, rounded up to whole batches. None, or more than available, returns
            ``batches`` unchanged.
        layout: Which tensors have rows.
    """
    sizes = [batch_size(batch, layout) for batch in batches]
    size, total = sizes[0], sum(sizes)
    wanted = total if samples is None else -(-samples // size) * size
    if wanted >= total:
        return batches
    if has_own_rows(layout) or len({_shapes_behind(batch) for batch in batches}) > 1:
        count = -(-wanted * len(batches) // total)
        return [batches[index * len(batches) // count] for index in range(count)]
    chosen = torch.arange(wanted) * total // wanted
    rows_of, start = [], 0
    for end in torch.tensor(sizes).cumsum(0).tolist():
        rows_of.append(chosen[(chosen >= start) & (chosen < end)] - start)
        start = end
    first, spec = pytree.tree_flatten(batches[0])
    taken = [
        [leaf[rows] if has else None for leaf, has in zip(pytree.tree_leaves(batch), _has_rows(batch, layout), strict=True)]
        for batch, rows in zip(batches, rows_of, strict=True)
    ]
    columns = [
        torch.cat(column).split(size) if all(part is not None for part in column) else [leaf] * (wanted // size)
        for leaf, column in zip(first, zip(*taken, strict=True), strict=True)
    ]
    return [pytree.tree_unflatten(list(row), spec) for row in zip(*columns, strict=True)]


def even_batches(batches: Iterable[ModelInputs], *, least: int, most: int, layout: Layout = None) -> Iterator[ModelInputs]:
    """Yields the same rows in the same order, in batches neither too small nor too large.

    Small batches are slow, and large ones may exceed memory.
    Does not merge batches of different shapes, or with tensors that lack the batch dim.

    Args:
        batches: Calls of the model.
        least: Merge smaller batches until they have this many rows, if ``most`` allows.
        most: Split larger batches into equal parts.
        layout: Which tensors have rows.
    """
    waiting: list[ModelInputs] = []
    rows_of = lambda batch: batch_size(batch, layout)  # noqa: E731
    for batch in batches:
        size = rows_of(batch)
        if waiting and (sum(map(rows_of, waiting)) + size > most or not _go_together(waiting[0], batch, layout)):
            yield _together(waiting)
            waiting = []
        if size > most:
            yield from split_rows(batch, -(-size // -(-size // most)), keep_rest=True, layout=layout)
            continue
        waiting.append(batch)
        if sum(map(rows_of, waiting)) >= least or not _go_together(batch, batch, layout):
            yield _together(waiting)
            waiting = []
    if waiting:
        yield _together(waiting)


def _shapes_behind(batch: ModelInputs) -> tuple[torch.Size, ...]:
    return tuple(leaf.shape[1:] for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor))


def has_own_rows(layout: Layout) -> bool:
    """Returns whether some inputs have their own row counts."""
    return len({symbol for symbol in layout or () if symbol}) > 1


def _go_together(first: ModelInputs, second: ModelInputs, layout: Layout) -> bool:
    """Returns whether two batches can be merged into one."""
    (a, first_spec), (b, second_spec) = pytree.tree_flatten(first), pytree.tree_flatten(second)
    rows = [*_has_rows(first, layout), *_has_rows(second, layout)]
    return (
        first_spec == second_spec
        and all(has or not isinstance(leaf, Tensor) for leaf, has in zip([*a, *b], rows, strict=True))
        and all(x.shape[1:] == y.shape[1:] if isinstance(x, Tensor) else x == y for x, y in zip(a, b, strict=True))
    )


def _together(batches: Sequence[ModelInputs]) -> ModelInputs:
    if len(batches) == 1:
        return batches[0]
    join = lambda *leaves: torch.cat(leaves) if isinstance(leaves[0], Tensor) else leaves[0]  # noqa: E731
    joined: ModelInputs = pytree.tree_map(join, *batches)
    return joined


def _take_rows(batch: ModelInputs, rows: slice, layout: Layout) -> ModelInputs:
    """Slices every tensor with the batch dim; other leaves are shared by all rows."""
    leaves, spec = pytree.tree_flatten(batch)
    taken = [leaf[rows] if has else leaf for leaf, has in zip(leaves, _has_rows(batch, layout), strict=True)]
    found: ModelInputs = pytree.tree_unflatten(taken, spec)
    return found


def with_rows(batch: ModelInputs, counts: Mapping[str, int], layout: Sequence[str | None]) -> ModelInputs:
    """Returns a batch with new row counts: the first rows, cycled if there are too few.

    Args:
        batch: A call of the model.
        counts: New row count of each symbol of ``layout``.
        layout: Symbol of dim 0 for each tensor.
    """
    leaves, spec = pytree.tree_flatten(batch)
    symbols = iter(layout)
    taken = [_repeated(leaf, counts.get(next(symbols) or "")) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    found: ModelInputs = pytree.tree_unflatten(taken, spec)
    return found


def _repeated(tensor: Tensor, rows: int | None) -> Tensor:
    return tensor if rows is None else tensor[torch.arange(rows) % len(tensor)]


def _has_rows(batch: ModelInputs, layout: Layout) -> list[bool]:
    """Returns, for each leaf, whether its dim 0 is the batch dim."""
    leaves = pytree.tree_leaves(batch)
    if layout is None or not any(layout):
        size = batch_size(batch)
        return [isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == size for leaf in leaves]
    first, symbols = next(symbol for symbol in layout if symbol), iter(layout)
    return [isinstance(leaf, Tensor) and next(symbols) == first for leaf in leaves]
