"""Mutants of a source file, made by mutmut, and the tests that should kill them."""

from __future__ import annotations

import ast
import difflib
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.file_mutation import Mutation, create_mutations

#: Tests of a whole package, run after those that mirror or import the module.
CONTRACTS = {
    "reconstruction": "tests/reconstruction/test_reconstruct.py",
    "quantizers": "tests/contracts/test_quantizers.py",
    "passes": "tests/contracts/test_passes.py",
    "backends/onnxruntime": "tests/contracts/test_backends.py",
}


COMMON_ARGUMENTS = ("-q", "-n", "0", "-p", "no:cacheprovider", "--slow=all", "--hypothesis-seed=0")


@dataclass(frozen=True)
class Mutant:
    """One changed file.

    Attributes:
        file: Path of the source file in the repository.
        index: Which of the file's mutants, in mutmut's order.
        source: The file with the change.
        diff: Lines that were removed and added.
    """

    file: str
    index: int
    source: str
    diff: str


def mutants_of(root: Path, file: str) -> list[Callable[[], Mutant]]:
    """Returns what makes mutmut's mutants of the functions in a file.

    Texts of messages are left out: what stands inside a ``raise``.
    """
    code = (root / file).read_text(encoding="utf-8")
    module, mutations, *_ = create_mutations(file, code)
    messages = _lines_of_raises(code)
    positions = MetadataWrapper(module, unsafe_skip_copy=True).resolve(PositionProvider)
    lines = (position.start.line if (position := positions.get(m.original_node)) else 0 for m in mutations)
    return [
        partial(_mutant, file, index, code, module, mutation)
        for index, (mutation, line) in enumerate(zip(mutations, lines, strict=True))
        if mutation.contained_by_top_level_function is not None and line not in messages
    ]


def _mutant(file: str, index: int, code: str, module: cst.Module, mutation: Mutation) -> Mutant:
    changed = module.deep_replace(mutation.original_node, mutation.mutated_node)  # type: ignore[arg-type]
    assert isinstance(changed, cst.Module)
    lines = difflib.unified_diff(code.splitlines(), changed.code.splitlines(), lineterm="", n=0)
    diff = "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))
    return Mutant(file, index, changed.code, diff)


def _lines_of_raises(code: str) -> set[int]:
    raises = (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Raise))
    return {line for node in raises for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}


def tests_of(root: Path, package: str, file: str) -> list[str]:
    """Returns a module's test files: its mirror, those that import it, the package's contract."""
    module = Path(file)
    mirror = str(Path("tests", *module.parts[1:-1], f"test_{module.stem}.py"))
    dotted = ".".join(module.with_suffix("").parts)
    defined = {
        node.name for node in ast.parse((root / file).read_text()).body if isinstance(node, ast.ClassDef | ast.FunctionDef)
    }
    importing = []
    for path in sorted((root / "tests" / package).rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        names = {alias.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom) for alias in node.names}
        if dotted in text or names & defined:
            importing.append(str(path.relative_to(root)))
    whole = [str(path.relative_to(root)) for path in sorted((root / "tests" / package).glob("test_*.py"))]
    chosen = [mirror, *importing, CONTRACTS[package], *([] if importing else whole)]
    return [name for name in dict.fromkeys(chosen) if (root / name).exists()]


@dataclass(frozen=True)
class Baseline:
    """What a test file does without a change.

    Attributes:
        seconds: Processor time.
        failing: Tests that fail, as pytest names them. They are left out for every mutant.
    """

    seconds: float
    failing: tuple[str, ...]


def baseline_of(root: Path, test: str) -> Baseline:
    """Runs one test file on the original.

    Raises:
        RuntimeError: If pytest does not finish the file.
    """
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        status, _ = run_tests(root, [test], 3600, [f"--junitxml={report.name}", "-o", "junit_family=xunit1"])
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        text = Path(report.name).read_text(encoding="utf-8")
    if status == "timeout" or not text:
        raise RuntimeError(f"{test}: pytest does not finish it without a change")
    cases = (
        case
        for case in ElementTree.fromstring(text).iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    )
    failing = tuple(_node_id(test, case) for case in cases)
    return Baseline(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, failing)


def _node_id(test: str, case: ElementTree.Element) -> str:
    """Returns pytest's name of a test case: file, classes and function."""
    module = test.removesuffix(".py").replace("/", ".")
    classes = case.get("classname", "").removeprefix(module).strip(".").split(".")
    return "::".join([test, *filter(None, classes), case.get("name", "")])


def run_tests(root: Path, tests: Sequence[str], seconds: int, arguments: Sequence[str] = ("-x",)) -> tuple[str, float]:
    """Runs tests in a child of this process, which has torch imported but not qpass.

    Args:
        root: The copy of the repository.
        tests: Test files in it.
        seconds: Limit of the child's processor time; ten times as much by the clock.
        arguments: Arguments of pytest. By default, the first failure ends the run.

    Returns:
        ``"survived"``, ``"killed"`` or ``"timeout"``, and the seconds by the clock.
    """
    start = time.monotonic()
    child = os.fork()
    if not child:
        _run_in_child(root, [*arguments, *tests], seconds)
    while time.monotonic() - start < 10 * seconds:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.2)
    else:
        os.killpg(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "timeout", time.monotonic() - start
    return ("killed" if os.WEXITSTATUS(status) else "survived"), time.monotonic() - start


def _run_in_child(root: Path, arguments: Sequence[str], seconds: int) -> None:
    code = 1
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        os.chdir(root)
        sys.path.insert(0, str(root))
        sys.dont_write_bytecode = True
        os.environ.pop("QPASS_ASSETS", None)  # tests on real weights take minutes
        os.environ.update(PYTHONPATH=str(root), PYTHONDONTWRITEBYTECODE="1")
        import pytest

        code = int(pytest.main([*COMMON_ARGUMENTS, *arguments]))
    finally:
        os._exit(code)
