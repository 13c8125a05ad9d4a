"""Files of the parts of a model, one for each: written, verified, and run from the model's own control flow."""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from pathlib import Path

from torch import fx, nn

from qpass.backends.onnx_qdq import export_quantized
from qpass.backends.onnxruntime import OrtModule, VerifyReport, verify
from qpass.data import ModelInputs
from qpass.errors import LoweringError, VerifyError
from qpass.parts import parts_of, put_back, record_calls


def export_parts(model: nn.Module, folder: Path, *, opset: int | None, target: str, weight_type: str) -> Path:
    """Writes ``<path of the part>.onnx`` for each part into a folder, all of them or none."""
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


def verify_parts(model: nn.Module, folder: Path, inputs: ModelInputs, *, strict: bool) -> VerifyReport:
    """Compares each file with its part, on what the part is called with when the model runs on ``inputs``."""
    parts = parts_of(model)
    calls = record_calls(model, list(parts), [inputs])
    checks, sources, left_out = [], list[str](), list[str]()
    for name, part in parts.items():
        if not calls[name]:
            raise VerifyError("was not called with any row", where=name, hint="verify with inputs on which it is used")
        report = verify(part, _file(folder, name), calls[name][0], strict=strict)
        checks += [dataclasses.replace(check, name=f"{name}, {check.name}") for check in report.checks]
        sources += [f"{name}, {source}" for source in report.source_checks]
        left_out += [f"{name}, {what}" for what in report.left_out]
    return VerifyReport(str(folder), len(inputs.args[0]) if inputs.args else 1, tuple(checks), tuple(sources), tuple(left_out))


def run_parts(model: nn.Module, folder: Path, *, threads: int) -> nn.Module:
    """Returns a copy of the model whose parts are computed by onnxruntime; a graph alone becomes one such part."""
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
