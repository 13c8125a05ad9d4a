"""Rows of a results table: dataclasses to a CSV file and back."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

_Row = TypeVar("_Row")
_READ = {"str": str, "int": int, "float": float, "bool": "True".__eq__}


def write_rows(path: Path, rows: Sequence[Any]) -> None:
    """Writes dataclasses of one kind."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(rows[0])])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def read_rows(path: Path, kind: type[_Row]) -> list[_Row]:
    """Returns the rows of an earlier run, none where there was none.

    Args:
        path: What ``write_rows`` wrote.
        kind: The dataclass; its fields are text, whole or other numbers, or truth values.
    """
    if not path.exists():
        return []
    read = {field.name: _READ[str(field.type)] for field in fields(kind)}  # type: ignore[arg-type]
    with path.open(encoding="utf-8") as file:
        return [kind(**{name: read[name](value) for name, value in record.items()}) for record in csv.DictReader(file)]
