"""Measured rows, a line of JSON each in ``results/rows/``.

Several processes may add to a file, and files of two machines merge.
"""

from __future__ import annotations

import base64
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import provenance
from equal_code import EqualCode, equal_code, is_equal
from provenance import Provenance

from qpass.runtime.atomic_write import write_whole

ROWS = Path(__file__).parent / "results" / "rows"
#: The digests of modules that rows refer to.
_SOURCES = "sources.json"
Key = tuple[str, int]


@dataclass(frozen=True)
class Drawn:
    """Which samples calibrated.

    Attributes:
        count: How many.
        of: Of how many.
        seed: What drew them.
        digest: Of their names, in order.
    """

    count: int
    of: int
    seed: int
    digest: str


@dataclass(frozen=True)
class Row:
    """One recipe on one network with one seed.

    Attributes:
        recipe: Its name; ``float`` for the float file.
        seed: Of what is drawn at random: calibration samples, rotation, probes, learning.
        config: Digest of the recipe's settings.
        scores: Through onnxruntime on the exported file: score -> value.
        in_torch: The same of the quantized graph; empty where it was not measured.
        samples: Score -> its value for each image, whose mean it is.
        resampled: Score -> its value for each resample of the images, where it is no mean.
        drops: Score -> its drop from float and the error, for rows that kept no samples.
        verified: Whether the file passed verification against the graph.
        file_mb: Size of the file.
        activation_bits: Mean over multiply-adds, without the network's input.
        wider_activations: How many activations of how many have more bits than the recipe says.
        quantize_seconds: Wall time of quantizing.
        total_seconds: Wall time with export, verification and evaluation.
        schedule: How long the recipe learns; empty if it does not.
        steps: Gradient steps for each block.
        drawn: The calibration samples.
        provenance: What it was measured with; None before that was kept.
    """

    recipe: str
    seed: int
    config: str
    scores: Mapping[str, float]
    verified: bool
    file_mb: float
    in_torch: Mapping[str, float] = field(default_factory=dict)
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)
    resampled: Mapping[str, Sequence[float]] = field(default_factory=dict)
    drops: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    activation_bits: float = 0.0
    wider_activations: str = ""
    quantize_seconds: float = 0.0
    total_seconds: float = 0.0
    schedule: str = ""
    steps: int = 0
    drawn: Drawn | None = None
    provenance: Provenance | None = None

    @property
    def key(self) -> Key:
        return self.recipe, self.seed

    def to_line(self) -> str:
        """Returns the row as a line of JSON."""
        plain = asdict(self)
        plain["samples"] = {name: _packed(values) for name, values in self.samples.items()}
        plain["resampled"] = {name: [round(value, 3) for value in values] for name, values in self.resampled.items()}
        return json.dumps({name: value for name, value in plain.items() if value not in ({}, None)}, ensure_ascii=False)

    @classmethod
    def from_line(cls, line: str) -> Row:
        """Returns what ``to_line`` wrote."""
        plain: dict[str, Any] = json.loads(line)
        if "samples" in plain:
            plain["samples"] = {name: _unpacked(values) for name, values in plain["samples"].items()}
        if "drops" in plain:
            plain["drops"] = {name: tuple(pair) for name, pair in plain["drops"].items()}
        for name, kind in (("drawn", Drawn), ("provenance", Provenance)):
            if name in plain:
                plain[name] = kind(**plain[name])
        return cls(**plain)


def _packed(values: Sequence[float]) -> Any:
    """Returns hits and misses, 100 and 0, as bits, and other values rounded."""
    array = np.asarray(values, dtype=np.float64)
    if np.isin(array, (0.0, 100.0)).all():
        return {"of": len(array), "hits": base64.b64encode(np.packbits(array > 0).tobytes()).decode()}
    return [round(value, 4) for value in array.tolist()]


def _unpacked(content: Any) -> list[float]:
    if isinstance(content, list):
        return content
    bits = np.unpackbits(np.frombuffer(base64.b64decode(content["hits"]), np.uint8), count=content["of"])
    return (100.0 * bits).tolist()


class RowStore:
    """The rows of one table or network.

    Args:
        name: Of the file.
        folder: Where it is.
    """

    def __init__(self, name: str, folder: Path = ROWS) -> None:
        self.name, self._folder = name, folder
        self._path = folder / f"{name}.jsonl"

    def read(self) -> dict[Key, Row]:
        """Returns all rows."""
        if not self._path.exists():
            return {}
        lines = self._path.read_text(encoding="utf-8").splitlines()
        return {row.key: row for row in map(Row.from_line, lines)}

    def put(self, *rows: Row) -> None:
        """Adds rows, or replaces those with the same recipe and seed, as other processes may too."""
        with self._lock("rows"):
            known = self.read() | {row.key: row for row in rows}
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, "".join(f"{known[key].to_line()}\n" for key in sorted(known)))

    def merge(self, folder: Path) -> list[Key]:
        """Takes rows of another machine that are not older than those here; returns which."""
        here = self.read()
        other = RowStore(self.name, folder)
        taken = [row for row in other.read().values() if row.key not in here or _date(row) >= _date(here[row.key])]
        taken = [row for row in taken if here.get(row.key) != row]
        if taken:
            self.put(*taken)
            self.keep_sources(*other.all_sources().values())
        return [row.key for row in taken]

    @contextmanager
    def claimed(self, key: Key) -> Iterator[bool]:
        """Yields whether this process may measure a row; others on this machine may not meanwhile."""
        lock = self._lock(f"row-{key}")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def all_sources(self) -> dict[str, dict[str, str]]:
        """Returns the digests of modules that rows refer to, by key."""
        path = self._folder / _SOURCES
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def history(self) -> CodeHistory:
        """Returns what is known of the code that measured the rows."""
        return CodeHistory(self.all_sources(), equal_code(self._folder))

    def keep_sources(self, *found: Mapping[str, str]) -> str:
        """Adds digests of modules, and returns the key of the last."""
        keys = [provenance.digest(dict(one)) for one in found]
        with RowStore(_SOURCES, self._folder)._lock("sources"):
            known = self.all_sources()
            if any(key not in known for key in keys):
                known |= {key: dict(one) for key, one in zip(keys, found, strict=True)}
                self._folder.mkdir(parents=True, exist_ok=True)
                write_whole(self._folder / _SOURCES, json.dumps(known, indent=0, sort_keys=True) + "\n")
        return keys[-1]

    def _lock(self, what: str) -> filelock.FileLock:
        place = Path(tempfile.gettempdir()) / "qpass-benchmarks"
        place.mkdir(exist_ok=True)
        name = hashlib.sha256(f"{self._path.resolve()}:{what}".encode()).hexdigest()[:24]
        return filelock.FileLock(place / f"{name}.lock")


def _date(row: Row) -> str:
    return row.provenance.date if row.provenance else ""


@dataclass(frozen=True)
class CodeHistory:
    """Decides whether the code that measured a row computes the same today.

    Attributes:
        sources: The digests of modules that rows refer to: ``RowStore.all_sources``.
        equal: Changes of code that are known to write the same files.
    """

    sources: Mapping[str, Mapping[str, str]]
    equal: Sequence[EqualCode] = ()

    def why_stale(self, row: Row, config: str) -> str:
        """Returns why a row's figures may no longer hold; empty if nothing that computes them has changed.

        Args:
            row: The row.
            config: Digest of the recipe's settings now.
        """
        if row.provenance is None:
            return "measured before the commit of a row was kept"
        if row.config != config:
            return "the recipe has changed"
        before = self.sources.get(row.provenance.sources)
        if before is None:
            return "the code that measured it is not known"
        found = provenance.changed(before)
        if not found or is_equal(row.recipe, before, self.equal):
            return ""
        return f"changed since: {', '.join(found[:3])}{' and others' if len(found) > 3 else ''}"
