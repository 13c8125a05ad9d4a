"""Exports, verifies and runs the parts of a model, one file each, within the model's control flow."""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from pathlib import Path

from torch import fx, nn

from qpass.backends.onnx_qdq import export_quantized
from qpass.backends.onnxruntime import OrtModule, VerifyReport, verify
from qpass.backends.onnxruntime.verification import ONNXRUNTIME
from qpass.data import ModelInputs
from qpass.errors import LoweringError, VerifyError
from qpass.graph.parts import call_forms, parts_of, put_back, record_calls
from qpass.runtime.storage import Storage


def export_parts(model: nn.Module, folder: Path, *, opset: int | None, target: str, weight_type: str) -> Path:
    """Writes ``<path of the part>.onnx`` for each part to a folder, all or none."""
    if not folder.parent.is_dir():
        raise LoweringError("no such folder", where=str(folder.parent), expected="an existing one")
    if folder.exists() and not folder.is_dir():
        raise LoweringError("is a file", where=str(folder), expected="a folder, for a file of each part")
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        for name, part in parts_of(model).items():
            export_quantized(part, Path(scratch) / f"{name}.onnx", opset=opset, target=target, weight_type=weight_type)
        folder.mkdir(exist_ok=True)
        for file in Path(scratch).iterdir():
            file.replace(folder / file.name)
    return folder


def verify_parts(
    model: nn.Module,
    folder: Path,
    inputs: ModelInputs,
    *,
    strict: bool,
    storage: Storage | None = None,
    runtime: str = ONNXRUNTIME,
) -> VerifyReport:
    """Compares each file with its part, for each form of call it gets when the model runs on ``inputs``.

    Calls of one form have the same sizes after dim 0 and the same non-tensor values. If there are
    several forms, the names of the checks contain their sizes.
    """
    parts = parts_of(model)
    calls = record_calls(model, list(parts), [inputs])
    reports = []
    for name, part in parts.items():
        if not calls[name]:
            raise VerifyError("was not called with any row", where=name, hint="verify with inputs on which it is used")
        forms = call_forms(part, calls[name])
        for form, call in forms.items():
            where = name if len(forms) == 1 else f"{name} {form}"
            report = verify(part, _file(folder, name), call, strict=strict, storage=storage, runtime=runtime)
            reports.append(_named(report, where, name))
    return VerifyReport(
        str(folder),
        len(inputs.args[0]) if inputs.args else 1,
        checks=tuple(check for report in reports for check in report.checks),
        source_checks=tuple(dict.fromkeys(source for report in reports for source in report.source_checks)),
        source_informative=all(report.source_informative for report in reports),
        left_out=tuple(dict.fromkeys(what for report in reports for what in report.left_out)),
    )


def _named(report: VerifyReport, where: str, part: str) -> VerifyReport:
    """Returns a report with the names of the part and its form of call added."""
    return dataclasses.replace(
        report,
        checks=tuple(dataclasses.replace(check, name=f"{where}, {check.name}") for check in report.checks),
        source_checks=tuple(f"{part}, {source}" for source in report.source_checks),
        left_out=tuple(f"{part}, {what}" for what in report.left_out),
    )


def run_parts(model: nn.Module, folder: Path, *, threads: int) -> nn.Module:
    """Returns a copy of the model whose parts run in onnxruntime; a graph becomes a single part."""
    if isinstance(model, fx.GraphModule):
        return OrtModule(model, folder, threads=threads).eval()
    runner = copy.deepcopy(model)
    for name, part in parts_of(model).items():
        put_back(runner, name, OrtModule(part, _file(folder, name), threads=threads))
    return runner.eval()


def _file(folder: Path, name: str) -> Path:
    path = folder / f"{name}.onnx"
    if not path.is_file():
        raise VerifyError("no such file", where=str(path), expected=f"what export_onnx wrote for the part {name!r}")
    return path
