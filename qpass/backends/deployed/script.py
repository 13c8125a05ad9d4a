"""Writes ``run.py``: one file that runs a deployed network without qpass and torch."""

from __future__ import annotations

import ast
from pathlib import Path

import qpass.data.preprocess as preprocess

_IMPORT = "from qpass.data.preprocess import preprocess\n"


def run_script() -> str:
    """Returns ``run.py`` as one file that imports nothing from qpass."""
    script = Path(__file__).with_name("run.py").read_text(encoding="utf-8")
    before, _, after = script.partition(_IMPORT)
    marker = 'if __name__ == "__main__":'
    main, _, rest = after.partition(marker)
    return f"{before.rstrip()}\n{main.rstrip()}\n\n\n{_functions()}\n\n\n{marker}{rest}"


def _functions() -> str:
    """Returns the source of the preprocessing from its first function on."""
    source = Path(preprocess.__file__).read_text(encoding="utf-8")
    first = next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))
    return "\n".join(source.splitlines()[first.lineno - 1 :])
