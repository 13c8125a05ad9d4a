"""Where a figure comes from: commit, machine, versions, threads, and digests of its code."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

import qpass
from qpass.backends.onnxruntime.latency import describe_machine

ROOT = Path(__file__).parent.parent
#: What a row's scores depend on, and what in it they do not: checks, texts and timings.
_COMPUTE = (
    "qpass/backends/onnx_qdq",
    "qpass/backends/onnxruntime/session.py",
    "qpass/compiler",
    "qpass/data",
    "qpass/graph",
    "qpass/nn",
    "qpass/observers",
    "qpass/passes",
    "qpass/quantizers",
    "qpass/runtime/float32_products.py",
    "qpass/solvers",
    "qpass/zoo",
)
_LEARN = ("qpass/reconstruction",)
_IRRELEVANT = ("qpass/graph/source_check", "qpass/compiler/resume.py", "qpass/passes/invariants.py")


@dataclass(frozen=True)
class Provenance:
    """What a row was measured with.

    Attributes:
        commit: Short hash; a trailing + marks uncommitted changes to relevant files.
        machine: Processor and its integer instructions.
        versions: Of Python and packages.
        threads: Of torch and onnxruntime.
        date: Day of the measurement.
        sources: Digest of the code that computes the row, by module: a key of ``rows/sources.json``.
    """

    commit: str
    machine: str
    versions: Mapping[str, str]
    threads: int
    date: str
    sources: str

    @classmethod
    def here(cls, sources: str) -> Provenance:
        """Returns the provenance of a row measured now.

        Args:
            sources: The key of the digests of its code.
        """
        return cls(commit(), machine(), versions(), torch.get_num_threads(), time.strftime("%Y-%m-%d"), sources)


def machine() -> str:
    """Returns the processor and its integer instructions."""
    return describe_machine().partition(", onnxruntime")[0]


def versions() -> dict[str, str]:
    """Returns the versions that may change a score."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
        "timm": version("timm"),
        "qpass": qpass.__version__,
    }


def provenance_line() -> str:
    """Returns a sentence with the commit, machine and versions of a measurement made now."""
    named = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"Measured at commit {commit()} on {machine()}, {torch.get_num_threads()} threads, {time.strftime('%Y-%m-%d')}; {named}."


@functools.cache
def commit() -> str:
    """Returns the commit of this checkout, or ``QPASS_COMMIT`` for a copy without git's data."""
    if known := os.environ.get("QPASS_COMMIT"):
        return known
    try:
        found = _git("rev-parse", "--short", "HEAD").strip()
        return found + ("+" if _git("status", "--porcelain", "--", "qpass", "benchmarks/*.py").strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, cwd=ROOT).stdout


def sources(learns: bool, files: Iterable[str] = ()) -> dict[str, str]:
    """Returns the digest of each module that computes a row.

    Args:
        learns: Whether blocks are learned.
        files: Modules of ``benchmarks/`` that take part, besides those of qpass.
    """
    parts = [ROOT / part for part in (*_COMPUTE, *(_LEARN if learns else ()), *(f"benchmarks/{file}" for file in files))]
    found = [path for part in parts for path in (sorted(part.rglob("*.py")) if part.is_dir() else [part])]
    names = [path.relative_to(ROOT).as_posix() for path in found]
    return {name: _digest_of_file(name) for name in names if not name.startswith(_IRRELEVANT)}


def changed(before: Mapping[str, str]) -> list[str]:
    """Returns the modules whose code has changed since, or that no longer exist.

    A new module counts once one of these uses it.
    """
    return [name for name, known in before.items() if not (ROOT / name).exists() or _digest_of_file(name) != known]


@functools.cache
def _digest_of_file(name: str) -> str:
    return digest_of_code((ROOT / name).read_text(encoding="utf-8"))


def digest_of_code(text: str) -> str:
    """Returns a digest of what a module does.

    Comments, layout, docstrings, messages of errors and type hints do not count.
    """
    return digest(_plain(ast.parse(text)))


def digest(content: Any) -> str:
    """Returns a short digest of plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _plain(node: Any) -> Any:
    """Returns a syntax tree as plain data, the same for all versions of Python."""
    if isinstance(node, list):
        return [_plain(item) for item in node if not _is_text(item)]
    if isinstance(node, ast.Raise):
        return ["Raise"]
    if isinstance(node, ast.JoinedStr):  # versions differ in how they cut the constant parts
        return ["JoinedStr", *_joined([_plain(part) for part in node.values])]
    if not isinstance(node, ast.AST):
        return node if isinstance(node, str | int | float | bool) or node is None else repr(node)
    skipped = {"ctx", "kind", "type_comment", "type_params", "type_ignores", "returns", "annotation"}
    pairs = [(name, _plain(value)) for name, value in ast.iter_fields(node) if name not in skipped]
    return [type(node).__name__, *([name, value] for name, value in pairs if value not in (None, []))]


def _joined(parts: list[Any]) -> list[Any]:
    """Returns the parts of an f-string, with constants beside each other as one."""
    found: list[Any] = []
    for part in parts:
        text = part[1][1] if part[0] == "Constant" and len(part) > 1 else None
        if text is None:
            found.append(part)
        elif found and isinstance(found[-1], str):
            found[-1] += text
        elif text:
            found.append(text)
    return found


def _is_text(item: Any) -> bool:
    """Tells whether a statement is a docstring."""
    return isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant) and isinstance(item.value.value, str)
