"""Atomic writing of a model."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import onnx_ir as ir

from qpass.errors import LoweringError
from qpass.runtime.atomic_write import draft_of

#: Larger weights are stored next to the file: protobuf's limit is 2 GiB.
EXTERNAL_DATA_BYTES = 2**31 - 2**24


def check_writable(path: Path) -> Path:
    """Rejects a path that cannot be written, before any work is done.

    Raises:
        LoweringError: If the folder does not exist or is read-only, or the path is a folder.
    """
    folder = path.parent
    if path.is_dir():
        raise LoweringError("is a folder", where=str(path), expected="the path of a file")
    if not folder.is_dir():
        raise LoweringError("the folder does not exist", where=str(folder), hint="create it first")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise LoweringError(f"the folder cannot be written to ({error.strerror})", where=str(folder)) from error
    return path


def write_model(model: ir.Model, path: Path, *, external_bytes: int = EXTERNAL_DATA_BYTES) -> None:
    """Writes the model atomically, after onnx.checker has checked a draft next to ``path``.

    Args:
        model: The model.
        path: The file. Weights beyond ``external_bytes`` go to ``<name>.data`` next to it.
        external_bytes: Total size of the initializers above which they are stored outside the file.

    Raises:
        LoweringError: If onnx.checker rejects the model, or it cannot be written, as on a full
            disk.
    """
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    data = f"{path.name}.data" if size > external_bytes else None
    try:
        with draft_of(path) as draft:
            ir.save(model, draft, external_data=data)
            _check(draft, path.name, full=data is None)
    except OSError as error:
        raise LoweringError(f"cannot be written ({error.strerror})", where=str(path)) from error


def _check(draft: Path, name: str, *, full: bool) -> None:
    try:
        onnx.checker.check_model(str(draft), full_check=full)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        first = next(iter(str(error).splitlines()), "")
        raise LoweringError(f"onnx.checker refuses the lowered graph: {first}", where=name, hint="report this") from error
