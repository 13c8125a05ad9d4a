"""Share of mutants that the tests kill, by package, on a sample drawn from a seed.

Run: python benchmarks/mutations.py --samples 40 --seed 0 --jobs 2
Writes: benchmarks/results/mutations.json and .md. It tests a commit, in copies of its own. The same
command resumes a run that was stopped. Needs mutmut (``pip install -e ".[dev]"``).
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import platform
import random
import shutil
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
from source_tree import ROOT, extract, git

os.chdir(ROOT)  # mutmut reads its settings in pyproject.toml from here when it is imported
from mutants import Baseline, Mutant, baseline_of, mutants_of, run_tests, tests_of  # noqa: E402

PACKAGES = ("quantizers", "reconstruction", "passes", "backends/onnxruntime")
RESULTS = ROOT / "benchmarks" / "results" / "mutations.json"
#: Mutants that compute the same as the original, each with the reason.
EQUIVALENT = ROOT / "benchmarks" / "equivalent_mutants.json"
#: Imported once, before a child is forked for each mutant. None of it imports qpass.
PRELOADED = (
    "torch",
    "torchvision",
    "timm",
    "onnx",
    "onnxruntime",
    "onnx_ir",
    "onnxscript",
    "scipy.optimize",
    "hypothesis",
    "pytest",
)


def sample(root: Path, package: str, size: int, seed: int) -> list[Mutant]:
    """Draws mutants of a package, each with the same probability."""
    files = sorted(path.relative_to(root) for path in (root / "qpass" / package).rglob("*.py"))
    every = [make for file in files for make in mutants_of(root, str(file))]
    click.echo(f"{package}: {len(every)} mutants")
    return [make() for make in random.Random(f"{seed} {package}").sample(every, min(size, len(every)))]


def run_mutant(
    root: Path, tests: dict[str, list[str]], baselines: dict[str, Baseline], mutant: Mutant
) -> tuple[Mutant, str, float]:
    """Runs the tests of one mutant in a copy of the repository that belongs to this process.

    Args:
        root: The copy that every process starts from.
        tests: Test files by source file.
        baselines: What each test file does without a change.
        mutant: What is tested.

    Returns:
        The mutant, its status and the seconds by the clock.
    """
    copy = root.with_name(f"{root.name}-{os.getpid()}")
    if not copy.exists():
        shutil.copytree(root, copy, symlinks=True)
    path = copy / mutant.file
    original = path.read_text(encoding="utf-8")
    path.write_text(mutant.source, encoding="utf-8")
    chosen = {name: baselines[name] for name in tests[mutant.file]}
    left_out = [f"--deselect={name}" for baseline in chosen.values() for name in baseline.failing]
    limit = 30 + round(2 * sum(baseline.seconds for baseline in chosen.values()))
    status, seconds = run_tests(copy, list(chosen), limit, ["-x", *left_out])
    path.write_text(original, encoding="utf-8")
    return mutant, status, seconds


def run_package(root: Path, package: str, size: int, seed: int, jobs: int, run: dict[str, Any], keep: Any) -> None:
    """Runs the sample of one package and keeps each result as soon as it is known."""
    found = run["found"]
    mutants = sample(root, package, size, seed)
    tests = {file: tests_of(root, package, file) for file in {mutant.file for mutant in mutants}}
    missing = [mutant for mutant in mutants if f"{mutant.file}:{mutant.index}" not in found]
    if not missing:
        return
    files = sorted({name for names in tests.values() for name in names})
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        baselines = dict(zip(files, pool.map(partial(baseline_of, root), files, chunksize=1), strict=True))
        failing = {name for baseline in baselines.values() for name in baseline.failing}
        run["left out"] = sorted({*run.get("left out", ()), *failing})
        click.echo(f"{package}: {len(files)} test files; {len(failing)} tests fail without a change and are left out")
        for mutant, status, seconds in pool.imap_unordered(partial(run_mutant, root, tests, baselines), missing):
            click.echo(f"{package}: {mutant.file}:{mutant.index} {status} in {seconds:.0f} s")
            found[f"{mutant.file}:{mutant.index}"] = {"package": package, "status": status, "diff": mutant.diff}
            keep()


def without_equivalents(found: dict[str, Any]) -> dict[str, Any]:
    """Marks the survivors that are known to compute the same."""
    known = {(entry["file"], entry["diff"]): entry["reason"] for entry in json.loads(EQUIVALENT.read_text(encoding="utf-8"))}
    for name, result in found.items():
        reason = known.get((name.rpartition(":")[0], result["diff"]))
        if result["status"] == "survived" and reason is not None:
            result.update(status="equivalent", reason=reason)
    return found


def page(runs: Sequence[dict[str, Any]]) -> str:
    """Returns the results as Markdown."""
    lines = [
        "# Mutants that the tests kill",
        "",
        "Written by `python benchmarks/mutations.py`. Mutants are mutmut's, drawn at random in each package. Those inside `raise`",
        "statements are left out: they change texts of messages. For each mutant, the tests run that mirror or import its module, and",
        "the contract of its package. Other tests may kill more. Equivalent mutants do not count. A package without a row was not",
        "measured in that run. A run that was stopped has fewer mutants and leans towards those that are killed quickly.",
    ]
    for run in runs:
        lines += [
            "",
            f"## Commit {run['commit'][:10]}, seed {run['seed']}",
            "",
            run["machine"],
            *_left_out(run.get("left out", ())),
            "",
            "| package | drawn | equivalent | killed | of these by time | survived | killed, % |",
            "|---|---|---|---|---|---|---|",
        ]
        for package in PACKAGES:
            lines += _row(package, [result for result in run["found"].values() if result["package"] == package])
    last = runs[-1]["found"]
    lines += ["", "## Survivors of the last run", ""]
    for name, result in last.items():
        if result["status"] in ("survived", "equivalent"):
            lines += [f"`{name}`{' (equivalent: ' + result['reason'] + ')' if 'reason' in result else ''}", ""]
            lines += ["```diff", result["diff"], "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def _left_out(tests: Sequence[str]) -> list[str]:
    """Returns the lines that name the tests which fail without a change."""
    return (
        ["", "Left out, since they fail there without a change: " + ", ".join(f"`{name}`" for name in tests) + "."]
        if tests
        else []
    )


def _row(package: str, results: Sequence[dict[str, Any]]) -> list[str]:
    if not results:
        return []
    count = {status: sum(r["status"] == status for r in results) for status in ("equivalent", "killed", "timeout", "survived")}
    killed = count["killed"] + count["timeout"]
    total = max(1, killed + count["survived"])
    share = killed / total
    error = math.sqrt(share * (1 - share) / total)
    return [
        f"| `qpass/{package}` | {len(results)} | {count['equivalent']} | {killed} | {count['timeout']} | {count['survived']} "
        f"| {100 * share:.0f} ± {100 * error:.0f} |"
    ]


def machine() -> str:
    """Names the processor and the versions."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    processor = names[0].partition(": ")[2] if names else platform.machine()
    return f"{processor}, {os.cpu_count()} cores; Python {platform.python_version()}."


@click.command()
@click.option("--samples", default=40, help="Mutants for each package.")
@click.option("--seed", default=0, help="Of the draw.")
@click.option("--package", "packages", multiple=True, type=click.Choice(PACKAGES), help="Only these; all by default.")
@click.option("--jobs", default=1, help="Mutants tested side by side, each by a process of one thread.")
@click.option("--commit", default="HEAD", help="What is tested.")
@click.option("--page-only", is_flag=True, help="Write the page from the results that are there.")
def main(samples: int, seed: int, packages: tuple[str, ...], jobs: int, commit: str, page_only: bool) -> None:
    """Draws mutants, runs the tests on each, and writes the results."""
    os.environ["OMP_NUM_THREADS"] = "1"
    runs = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    commit = git("rev-parse", commit).decode().strip()
    key = {"commit": commit, "seed": seed}
    run = next((run for run in runs if {name: run[name] for name in key} == key), None)
    if run is None and not page_only:
        run = {**key, "machine": machine(), "found": {}}
        runs.append(run)

    def keep() -> None:
        for each in runs:
            without_equivalents(each["found"])
        RESULTS.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
        RESULTS.with_suffix(".md").write_text(page(runs), encoding="utf-8")

    if not page_only:
        assert run is not None
        for name in PRELOADED:
            __import__(name)
        with tempfile.TemporaryDirectory(prefix="qpass-mutants-") as folder:
            root = Path(folder, "original")
            extract(commit, root)
            for package in packages or PACKAGES:
                run_package(root, package, samples, seed, jobs, run, keep)
    keep()


if __name__ == "__main__":
    main()
