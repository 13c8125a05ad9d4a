"""Batches of calls, cut and joined along their samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from qpass.data.batches import ModelInputs

#: For each tensor of a call, in flattened order, the name of the symbol that its dim 0 is, or None where that is no number of
#: samples. The first symbol is the batch; tensors of other symbols have row counts of their own. None: told by size.
Layout = Sequence[str | None] | None


def batch_size(batch: Any, layout: Layout = None) -> int:
    """Returns the size of dim 0 of the first tensor that has the batch there, 1 where there is none."""
    tensors = [leaf for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor)]
    if layout is not None and any(layout):
        return next(tensor.shape[0] for tensor, symbol in zip(tensors, layout, strict=True) if symbol)
    return next((tensor.shape[0] for tensor in tensors if tensor.dim()), 1)


def split_rows(batch: ModelInputs, rows: int, *, keep_rest: bool = False, layout: Layout = None) -> list[ModelInputs]:
    """Cuts a batch into batches of ``rows`` rows; what is left over at the end is dropped, or is a smaller batch."""
    starts = range(0, batch_size(batch, layout) - (0 if keep_rest else rows - 1), rows)
    return [_take_rows(batch, slice(start, start + rows), layout) for start in starts]


def repeat_rows(batch: ModelInputs, times: int, layout: Layout = None) -> ModelInputs:
    """Returns a batch with its rows several times, one copy after the other."""
    leaves, spec = pytree.tree_flatten(batch)
    rows = zip(leaves, _has_rows(batch, layout), strict=True)
    repeated: ModelInputs = pytree.tree_unflatten([torch.cat([leaf] * times) if has else leaf for leaf, has in rows], spec)
    return repeated


def spread_samples(batches: Sequence[ModelInputs], samples: int | None, layout: Layout = None) -> Sequence[ModelInputs]:
    """Returns ``samples`` rows spread evenly over the batches, in batches as large as the first.

    A folder of images is sorted by class: its first rows show a few classes only. Where inputs have row counts of their own,
    or sizes that differ, whole batches are taken.

    Args:
        batches: Calls of the model.
        samples: How many rows, rounded up to whole batches; None, or more than there are, takes the batches as they are.
        layout: Which tensors go by rows.
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
    """Yields the same rows in the same order, in batches that are neither small, which is slow, nor too large for the memory.

    Batches of other shapes, or with inputs that do not go by the batch, are not put together.

    Args:
        batches: Calls of the model.
        least: Smaller batches are put together until they have so many rows, where ``most`` allows it.
        most: Larger ones are cut into equal parts.
        layout: Which tensors go by rows.
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
    """Tells whether some inputs have row counts of their own."""
    return len({symbol for symbol in layout or () if symbol}) > 1


def _go_together(first: ModelInputs, second: ModelInputs, layout: Layout) -> bool:
    """Tells whether two batches are rows of one larger batch."""
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
    """Takes some rows of every tensor that has the batch's; what has not is the same for all rows."""
    leaves, spec = pytree.tree_flatten(batch)
    taken = [leaf[rows] if has else leaf for leaf, has in zip(leaves, _has_rows(batch, layout), strict=True)]
    found: ModelInputs = pytree.tree_unflatten(taken, spec)
    return found


def with_rows(batch: ModelInputs, counts: Mapping[str, int], layout: Sequence[str | None]) -> ModelInputs:
    """Returns a batch with other numbers of rows: the first ones, repeated in order where there are fewer.

    Args:
        batch: A call of the model.
        counts: How many rows for each entry of ``layout``.
        layout: Which tensors go by which rows.
    """
    leaves, spec = pytree.tree_flatten(batch)
    symbols = iter(layout)
    taken = [_repeated(leaf, counts.get(next(symbols) or "")) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    found: ModelInputs = pytree.tree_unflatten(taken, spec)
    return found


def _repeated(tensor: Tensor, rows: int | None) -> Tensor:
    return tensor if rows is None else tensor[torch.arange(rows) % len(tensor)]


def _has_rows(batch: ModelInputs, layout: Layout) -> list[bool]:
    """Tells for each leaf whether its dim 0 is the batch."""
    leaves = pytree.tree_leaves(batch)
    if layout is None or not any(layout):
        size = batch_size(batch)
        return [isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == size for leaf in leaves]
    first, symbols = next(symbol for symbol in layout if symbol), iter(layout)
    return [isinstance(leaf, Tensor) and next(symbols) == first for leaf in leaves]
