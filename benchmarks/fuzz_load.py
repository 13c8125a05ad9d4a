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
    import atheris

    with atheris.instrument_imports(include=["qpass.serialize", "qpass.runtime.records", "qpass.config"]):
        import qpass
    import torch
    import torchvision  # noqa: F401 (its operators)

    from qpass.serialize.operators import OPERATORS
    from tests.serialize.audit import harm
    from tests.serialize.forging import WAYS, alter, at, places, read, rewrite
    from tests.serialize.test_hostile import WORDS

    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 3)).eval()
    graph = qpass.quantize_graph(model, [torch.randn(8, 4)], "w4a4", progress=False)
    path = qpass.save(graph, count.parent / "m.qpass")
    template, done = read(path)[0], {"files": 0, "refused": 0, "answered": 0}
    x = torch.randn(8, 4)
    atheris.instrument_func(qpass.load)

    graph_places = [place for place in places(template) if place and place[0] in ("nodes", "modules", "facts", "in_spec")]

    def exchange(header: dict[str, Any], chance: random.Random) -> None:
        """Puts one thing where another of its kind is, so that many such graphs load and can be called."""
        place = chance.choice(graph_places)
        word: Any = at(template, chance.choice([other for other in graph_places if other[-1] == place[-1]]))
        if place[-1] == "target" and chance.random() < 0.5:
            packet = chance.choice(sorted(OPERATORS))
            word = (
                f"{packet}.{chance.choice(getattr(getattr(torch.ops, packet.split('.')[0]), packet.split('.')[1]).overloads())}"
            )
        with suppress(LookupError, TypeError):  # the place may be gone
            alter(header, place, "replace", copy.deepcopy(word))

    def mutate(data: bytes, max_size: int, draw: int) -> bytes:
        chance = random.Random(draw)
        try:
            header = json.loads(data)
        except ValueError:
            header = copy.deepcopy(template)
        if not isinstance(header, dict) or not header:
            header = copy.deepcopy(template)
        if chance.random() < 0.5:
            header = copy.deepcopy(template)
            exchange(header, chance)
            return json.dumps(header).encode()
        for _ in range(chance.randint(1, 3)):
            piece = copy.deepcopy(at(template, chance.choice(places(template))))  # stands where another belongs
            if everywhere := places(header)[1:]:
                alter(header, chance.choice(everywhere), chance.choice(WAYS), chance.choice((*WORDS, piece)))
        changed = json.dumps(header).encode()
        return changed if len(changed) <= max_size else json.dumps(template).encode()

    def answers(loaded: torch.nn.Module) -> bool:
        try:
            loaded(x)
        except Exception:  # a forged graph may be one that torch refuses, in any way
            return False
        return True

    def run(data: bytes) -> None:
        try:
            header = json.loads(data)
        except ValueError:
            return
        if not isinstance(header, dict):
            return
        rewrite(path, lambda own, _: (own.clear(), own.update(header)))
        done["files"] += 1
        with harm() as seen:
            try:
                loaded = qpass.load(path)
            except qpass.DataError:
                done["refused"] += 1
            else:
                done["answered"] += answers(loaded)
        assert not seen, seen
        if done["files"] % 200 == 0:
            count.write_text(json.dumps(done), encoding="utf-8")

    corpus = count.parent / "corpus"
    corpus.mkdir()
    (corpus / "saved.json").write_text(json.dumps(template), encoding="utf-8")
    count.write_text(json.dumps(done), encoding="utf-8")
    arguments = [f"-max_total_time={int(minutes * 60)}", f"-seed={seed + 1}", "-max_len=1000000", "-rss_limit_mb=8000"]
    atheris.Setup([sys.argv[0], *arguments, "-timeout=60", str(corpus)], run, custom_mutator=mutate)
    os.chdir(count.parent)  # libFuzzer leaves what it found here
    atheris.Fuzz()


if __name__ == "__main__":
    main()
