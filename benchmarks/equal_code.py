"""Commits between which recipes still write the same files: what same_files.py found."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import provenance

from qpass.runtime.atomic_write import write_whole

#: Beside the rows.
_FILE = "same_files.json"


@dataclass(frozen=True)
class EqualCode:
    """Two commits at which some recipes write the same files of control networks.

    Attributes:
        since: The earlier commit.
        commit: The later one.
        before: Digest of the code that computes rows of closed form at the earlier commit.
        after: The same at the later one.
        networks: The control networks.
        recipes: The recipes.
    """

    since: str
    commit: str
    before: str
    after: str
    networks: tuple[str, ...]
    recipes: tuple[str, ...]


def equal_code(folder: Path) -> list[EqualCode]:
    """Returns what is kept in a folder of rows."""
    path = folder / _FILE
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return [
        EqualCode(**{name: tuple(value) if isinstance(value, list) else value for name, value in one.items()}) for one in kept
    ]


def keep_equal_code(folder: Path, found: EqualCode) -> None:
    """Adds what was found, in place of what was known of the same code."""
    known = [one for one in equal_code(folder) if one.before != found.before]
    write_whole(folder / _FILE, json.dumps([asdict(one) for one in (*known, found)], indent=1) + "\n")


def is_equal(recipe: str, before: Mapping[str, str], known: Iterable[EqualCode]) -> bool:
    """Returns whether a recipe writes the same files with the code of today.

    Args:
        recipe: Its name.
        before: Digests of the modules that measured its row.
        known: ``equal_code``.
    """
    if any(not name.startswith("qpass/") for name in provenance.changed(before)):
        return False  # the evaluation has changed
    ours = {name: value for name, value in before.items() if name.startswith("qpass/")}
    fitting = [one for one in known if one.before == provenance.digest(ours) and recipe in one.recipes]
    return any(one.after == provenance.digest(provenance.sources(learns=False)) for one in fitting)
