"""Docstrings and comments have lines of at most 100 characters, without their indentation and quotes."""

from __future__ import annotations

import ast
import inspect
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GREATEST = 100


def texts(source: str) -> Iterator[str]:
    """Yields the lines of all docstrings and comments, dedented."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield from inspect.cleandoc(node.value.value).splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def too_long(source: str) -> list[str]:
    return [line for line in texts(source) if len(line) > GREATEST]


@pytest.mark.parametrize(
    "source",
    [
        '"""{}"""',
        'class A:\n    """Summary.\n\n    {}\n    """',
        'class A:\n    def f(self):\n        """{}"""',
        'class A:\n    X = 1\n    """{}"""',
        "if x:\n    # {}\n    pass",
        "x = 1  # {}",
    ],
)
def test_long_lines_are_found(source: str) -> None:
    prefix = "# " if "#" in source else ""
    assert too_long(source.format("a" * (GREATEST - len(prefix)))) == []
    assert too_long(source.format("a" * (GREATEST + 1))) == [prefix + "a" * (GREATEST + 1)]


@pytest.mark.parametrize("folder", ["qpass", "benchmarks"])
def test_no_line_of_a_docstring_or_comment_is_too_long(folder: str) -> None:
    found = {str(path.relative_to(ROOT)): too_long(path.read_text(encoding="utf-8")) for path in (ROOT / folder).rglob("*.py")}
    assert {name: lines for name, lines in found.items() if lines} == {}
