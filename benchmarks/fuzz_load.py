"""Fuzzes ``qpass.load`` with forged headers, guided by coverage, and calls what loads.

Run: python benchmarks/fuzz_load.py --minutes 60
Writes: benchmarks/results/fuzzing.json and .md. Needs atheris (``pip install atheris``) and the
development environment. A finding is an error of loading that is no DataError, or anything that
Python's audit events show while a file is loaded or its graph is called: a process, a write, a
connection.
"""

from __future__ import annotations

import copy
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
sys.path.insert(0, str(ROOT))  # for what the tests of loading know of forging and of harm


@click.command()
@click.option("--minutes", default=60.0, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--inside", type=click.Path(path_type=Path), hidden=True, help="Fuzz in this process and count here.")
def main(minutes: float, seed: int, inside: Path | None) -> None:
    """Runs the fuzzer in a process of its own, and writes what it did."""
    if inside is not None:
        _fuzz(minutes, seed, inside)
        return
    with tempfile.TemporaryDirectory() as folder:
        count = Path(folder) / "count.json"
        command = [sys.executable, __file__, "--minutes", str(minutes), "--seed", str(seed), "--inside", str(count)]
        start = time.monotonic()
        code = subprocess.run(command, check=False).returncode
        row = {**json.loads(count.read_text(encoding="utf-8")), "hours": (time.monotonic() - start) / 3600, "crash": code != 0}
    row["commit"] = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    row["seed"] = seed
    _write(row)


def _write(row: dict[str, Any]) -> None:
    file = RESULTS / "fuzzing.json"
    rows = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    rows.append(row)
    file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    lines = [
        "# Fuzzing of qpass.load",
        "",
        "Written by `python benchmarks/fuzz_load.py`. Headers of a saved file are changed, guided by the coverage of qpass, and",
        "loaded with a digest that fits; graphs that load are called. A finding is an error of loading that is no DataError, or a",
        "process, write or connection at any time.",
        "",
        "| commit | seed | hours | files | refused | loaded | of these answered when called | findings |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {one['commit']} | {one['seed']} | {one['hours']:.2f} | {one['files']:,} | {one['refused']:,} "
            f"| {one['files'] - one['refused']:,} | {one.get('answered', 'not called')} | {int(one['crash'])} |"
            for one in rows
        ),
    ]
    (RESULTS / "fuzzing.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    click.echo("\n".join(lines))


def _fuzz(minutes: float, seed: int, count: Path) -> None:
    """Fuzzes in this process; libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=["qpass.serialize", "qpass.runtime.records", "qpass.config"]):
        import qpass
    import torch
    import torchvision  # noqa: F401 (its operators)

    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 3)).eval()
    graph = qpass.quantize_graph(model, [torch.randn(8, 4)], "w4a4", progress=False)
    path = qpass.save(graph, count.parent / "m.qpass")
    atheris.instrument_func(qpass.load)
    forger, caller = Forger(path), Caller(path, torch.randn(8, 4), count)
    corpus = count.parent / "corpus"
    corpus.mkdir()
    (corpus / "saved.json").write_text(json.dumps(forger.template), encoding="utf-8")
    arguments = [f"-max_total_time={int(minutes * 60)}", f"-seed={seed + 1}", "-max_len=1000000", "-rss_limit_mb=8000"]
    atheris.Setup([sys.argv[0], *arguments, "-timeout=60", str(corpus)], caller.run, custom_mutator=forger.mutate)
    os.chdir(count.parent)  # libFuzzer leaves what it found here
    atheris.Fuzz()


class Forger:
    """Changes headers of saved files.

    Args:
        path: A file that ``qpass.save`` wrote.
    """

    def __init__(self, path: Path) -> None:
        from tests.serialize import forging

        self._forging = forging
        self.template: dict[str, Any] = forging.read(path)[0]
        places = forging.places(self.template)
        self._graph_places = [place for place in places if place and place[0] in ("nodes", "modules", "facts", "in_spec")]

    def mutate(self, data: bytes, max_size: int, draw: int) -> bytes:
        """Returns a changed header: one exchange of like for like, or up to three changes of any kind."""
        chance = random.Random(draw)
        if chance.random() < 0.5:
            header = copy.deepcopy(self.template)
            self._exchange(header, chance)
            return json.dumps(header).encode()
        header = _header(data) or copy.deepcopy(self.template)
        for _ in range(chance.randint(1, 3)):
            self._change(header, chance)
        changed = json.dumps(header).encode()
        return changed if len(changed) <= max_size else json.dumps(self.template).encode()

    def _exchange(self, header: dict[str, Any], chance: random.Random) -> None:
        """Puts one thing where another of its kind is, so that many such graphs load and can be called."""
        forging = self._forging
        place = chance.choice(self._graph_places)
        word: Any = forging.at(self.template, chance.choice([other for other in self._graph_places if other[-1] == place[-1]]))
        if place[-1] == "target" and chance.random() < 0.5:
            word = _operator(chance)
        with suppress(LookupError, TypeError):  # the place may be gone
            forging.alter(header, place, "replace", copy.deepcopy(word))

    def _change(self, header: dict[str, Any], chance: random.Random) -> None:
        from tests.serialize.test_hostile import WORDS

        forging = self._forging
        piece = copy.deepcopy(forging.at(self.template, chance.choice(forging.places(self.template))))
        if everywhere := forging.places(header)[1:]:
            forging.alter(header, chance.choice(everywhere), chance.choice(forging.WAYS), chance.choice((*WORDS, piece)))


def _operator(chance: random.Random) -> str:
    """Returns the name of an operator that files may hold."""
    import torch

    from qpass.serialize.operators import OPERATORS

    packet = chance.choice(sorted(OPERATORS))
    library, name = packet.split(".")
    return f"{packet}.{chance.choice(getattr(getattr(torch.ops, library), name).overloads())}"


def _header(data: bytes) -> dict[str, Any] | None:
    """Returns a header that is not empty, or None for other data."""
    try:
        header = json.loads(data)
    except ValueError:
        return None
    return header if isinstance(header, dict) and header else None


class Caller:
    """Loads files with forged headers, calls what loads, and counts.

    Args:
        path: The file whose header is replaced.
        x: Input of its graph.
        count: Where the counts are written.
    """

    def __init__(self, path: Path, x: Any, count: Path) -> None:
        self._path, self._x, self._count = path, x, count
        self._done = {"files": 0, "refused": 0, "answered": 0}
        self._write()

    def run(self, data: bytes) -> None:
        """Tries one header. Raises whatever is a finding."""
        import qpass
        from tests.serialize.audit import harm
        from tests.serialize.forging import rewrite

        header = _header(data)
        if header is None:
            return
        rewrite(self._path, lambda own, _: (own.clear(), own.update(header)))
        self._done["files"] += 1
        with harm() as seen:
            try:
                loaded = qpass.load(self._path)
            except qpass.DataError:
                self._done["refused"] += 1
            else:
                self._done["answered"] += self._answers(loaded)
        assert not seen, seen
        if self._done["files"] % 200 == 0:
            self._write()

    def _answers(self, loaded: Any) -> bool:
        try:
            loaded(self._x)
        except Exception:  # a forged graph may be one that torch refuses, in any way
            return False
        return True

    def _write(self) -> None:
        self._count.write_text(json.dumps(self._done), encoding="utf-8")


if __name__ == "__main__":
    main()
