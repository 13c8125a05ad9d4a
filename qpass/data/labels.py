"""Reads image labels from ``labels.csv``: one per path, relative to the folder or zip."""

from __future__ import annotations

import csv
import io
import posixpath
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from qpass.errors import DataError

#: Maximum number of paths in a message.
_SHOWN = 3


def relative(path: str) -> str:
    """Returns a path normalized for comparison: relative, with ``/`` separators and no ``.`` parts."""
    return posixpath.normpath(path.strip().replace("\\", "/")).lstrip("/")


def read_labels(text: str, paths: Sequence[str], where: str, also: Callable[[str], str]) -> list[int]:
    """Returns the label of each image.

    A row names an image by its path, or by its base name if that is unique.

    Args:
        text: The table: a header ``file,label``, then a path and an integer in each row.
        paths: Image paths, relative to their folder or zip.
        where: Path of the table, for messages.
        also: Returns the other path by which the table may name an image: relative to the table.

    Raises:
        DataError: If a row is malformed or contradicts another, a base name is ambiguous, or an image
            has no label.
    """
    table = _read_table(text, where)
    paths = [relative(path) for path in paths]
    counts = Counter(name for path in paths for name in {path, posixpath.basename(path)})
    labels = [_label_of(path, table, counts, also(path)) for path in paths]
    missing = [path for path, label in zip(paths, labels, strict=True) if label is None]
    shared = [path for path in missing if posixpath.basename(path) in table]
    if shared:
        name = posixpath.basename(shared[0])
        same = [path for path in paths if posixpath.basename(path) == name]
        raise DataError(f"{name!r} is the name of {_listed(same)}", where=where, hint="write their paths in the table")
    if missing:
        others = f": {_listed(missing)}" if len(missing) > 1 else ""
        raise DataError(f"no label for {missing[0]} (and {len(missing) - 1} more){others}", where=where)
    return [label for label in labels if label is not None]


def labels_that_fit(read: Callable[[], list[int]], *, needed: bool) -> list[int] | None:
    """Returns what ``read`` returns; None, with a warning, if it fails and labels are not needed.

    Raises:
        DataError: If it fails and labels are needed.
    """
    try:
        return read()
    except DataError as error:
        if needed:
            raise
        warnings.warn(f"{error}; the images are used without labels", stacklevel=4)
        return None


def _label_of(path: str, table: Mapping[str, int], counts: Mapping[str, int], other: str) -> int | None:
    base = posixpath.basename(path)
    names = [path, *([other] if other not in counts else []), *([base] if counts[base] == 1 else [])]
    return next((table[name] for name in names if name in table), None)


def _read_table(text: str, where: str) -> dict[str, int]:
    table: dict[str, int] = {}
    try:
        for row in csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=None)):
            name, label = relative(row["file"]), int(row["label"])
            if label < 0:
                raise ValueError(f"{name} has the label {label}")
            if table.setdefault(name, label) != label:
                raise DataError(f"{name} has the labels {table[name]} and {label}", where=where, expected="one label")
    except (KeyError, ValueError, TypeError, AttributeError, csv.Error) as error:
        raise DataError(f"bad row: {error}", where=where, expected="the header file,label and whole numbers from 0") from error
    return table


def _listed(paths: Sequence[str]) -> str:
    shown = list(paths[:_SHOWN])
    return ", ".join(shown) + (f" and {len(paths) - len(shown)} more" if len(paths) > len(shown) else "")
