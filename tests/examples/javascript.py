"""JavaScript of the examples, called from Python, and what it needs."""

from __future__ import annotations

import base64
import functools
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

HERE = Path(__file__).parent
EXAMPLES = HERE.parent.parent / "examples"
#: Set to 1 to let tests run `npm ci` where an example's packages are missing.
INSTALL = "QPASS_NPM"
_ARRAYS = {
    "Uint8Array": np.uint8, "Uint8ClampedArray": np.uint8, "Int8Array": np.int8, "Uint16Array": np.uint16, "Int16Array": np.int16,
    "Int32Array": np.int32, "BigInt64Array": np.int64, "Float32Array": np.float32,
}  # fmt: skip
_NAMES = {np.dtype(dtype): name for name, dtype in _ARRAYS.items() if name != "Uint8ClampedArray"}


def node() -> str:
    """Returns the path of node; skips without it."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("needs node")
    return found


def needs_packages(example: str) -> None:
    """Skips if the packages of an example are missing, unless they may be installed."""
    folder = EXAMPLES / example
    installed = folder / "node_modules" / ".package-lock.json"  # npm writes it last
    node()
    if installed.exists():
        return
    if os.environ.get(INSTALL) != "1":
        pytest.skip(f"needs the packages of examples/{example}: run npm ci --ignore-scripts there, or set {INSTALL}=1")
    with FileLock(folder / "npm.lock"):  # tests run in several processes
        if not installed.exists():
            subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, check=True)


def run_script(script: Path, *arguments: object, given: Any = None) -> Any:
    """Runs a script with data on its standard input; returns the data on its standard output."""
    command = [node(), str(script), *map(str, arguments)]
    result = subprocess.run(command, input=json.dumps(given, default=_encode), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout, object_hook=_decode)


def call(*calls: tuple[str, str, list[Any]]) -> list[dict[str, Any]]:
    """Returns {"result": …} or {"error": …} of each call: a module of examples/, a function, arguments."""
    return run_script(HERE / "call.mjs", given=calls)


@functools.singledispatch
def _encode(value: Any) -> Any:
    raise TypeError(type(value))


@_encode.register
def _(value: np.ndarray) -> Any:
    return {"array": _NAMES[value.dtype], "base64": base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()}


@_encode.register
def _(value: bytes) -> Any:
    return _encode(np.frombuffer(value, np.uint8))


def _decode(value: dict[str, Any]) -> Any:
    if "array" not in value:
        return value
    return np.frombuffer(base64.b64decode(value["base64"]), _ARRAYS[value["array"]])
