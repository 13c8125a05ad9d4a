"""Shows which recipes write the same files as at an earlier commit: their rows are not stale.

Run: python benchmarks/same_files.py --since COMMIT [--network mnist --network plates]
Quantizes control networks with few samples at that commit and in this tree, on this machine, and
compares constants and outputs bit by bit. A change that rounds one weight otherwise shows.
Writes: benchmarks/results/rows/same_files.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import provenance
from equal_code import EqualCode, keep_equal_code
from networks import NETWORKS
from source_tree import extract
from stored_rows import ROWS

#: Small networks of two kinds: a plain ViT; DyT, convolutions and cross-attention.
CONTROLS = ("mnist", "plates")


def digests(tree: Path, networks: Sequence[str], recipes: Sequence[str]) -> dict[str, dict[str, str]]:
    """Returns the digests of control files that the qpass of a source tree writes."""
    script = Path(__file__).with_name("control_files.py")
    command = [sys.executable, str(script), *networks, *(part for name in recipes for part in ("--recipe", name))]
    found = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(tree)}, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(found.stdout)


def equal_recipes(before: Mapping[str, Mapping[str, str]], after: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Returns the recipes whose files are the same for every network that has them."""
    names = dict.fromkeys(name for files in before.values() for name in files)
    return [name for name in names if all(files.get(name) == after[network].get(name) for network, files in before.items())]


def sources_at(tree: Path) -> dict[str, str]:
    """Returns the digests of the code of a source tree that computes rows of closed form."""
    script = "import json, provenance; print(json.dumps(provenance.sources(False)))"
    folder = tree / "benchmarks"
    environment = os.environ | {"PYTHONPATH": f"{tree}{os.pathsep}{folder}"}
    found = subprocess.run([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(found.stdout)


@click.command()
@click.option("--since", required=True, help="A commit whose rows are stored.")
@click.option("--network", "networks", multiple=True, type=click.Choice(list(NETWORKS)), default=CONTROLS, show_default=True)
@click.option("--recipe", "recipes", multiple=True, help="[default: all of closed form]")
def main(since: str, networks: Sequence[str], recipes: Sequence[str]) -> None:
    """Compare the files of recipes with those of an earlier commit."""
    with tempfile.TemporaryDirectory() as folder:
        extract(since, Path(folder))
        before, then = digests(Path(folder), networks, recipes), sources_at(Path(folder))
    after = digests(provenance.ROOT, networks, recipes)
    equal = equal_recipes(before, after)
    for name in dict.fromkeys(name for files in before.values() for name in files):
        click.echo(f"{name}: {'the same files' if name in equal else 'OTHER FILES'}")
    now = provenance.digest(provenance.sources(learns=False))
    found = EqualCode(since, provenance.commit(), provenance.digest(then), now, tuple(networks), tuple(equal))
    keep_equal_code(ROWS, found)


if __name__ == "__main__":
    main()
