"""What becomes of one model on its way from float module to verified file, as a row of docs/models.md."""

from __future__ import annotations

import collections
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
import torch.utils._pytree as pytree
import torchvision
import transformers
from provenance import commit
from torch import Tensor, nn

import qpass
from qpass.backends.onnxruntime.latency import describe_machine
from qpass.data.batches import model_inputs

#: Makes a float model in eval mode and a batch of inputs for it.
Create = Callable[[], tuple[nn.Module, Any]]


@dataclass
class Row:
    """What became of one model.

    ``decibels`` compares the quantized graph with the float model: signal over error of the worst
    output, on inputs that did not calibrate. None where it was not measured. ``made_with`` names
    commit, versions and machine.
    """

    library: str
    model: str
    dynamic_batch: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    stayed_float: dict[str, int] = field(default_factory=dict)
    unrotated: dict[str, int] = field(default_factory=dict)
    verified: bool = False
    ties: int = 0
    wrong: int = 0
    seconds: float = 0.0
    error: str = ""
    decibels: float | None = None
    made_with: str = ""


def run(library: str, name: str, create: Create, config: str) -> Row:
    """Takes one model the whole way; what is raised becomes the row's error."""
    row, start = Row(library, name, made_with=made_with()), time.perf_counter()
    try:
        model, inputs = create()
        _fill(row, model, inputs, config)
    except Exception as error:  # a row says what failed, and the sweep goes on
        row.error = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    row.seconds = time.perf_counter() - start
    return row


def made_with() -> str:
    """Returns commit, versions and machine, in one line."""
    libraries = ", ".join(f"{library.__name__} {library.__version__}" for library in (timm, transformers, torchvision, torch))
    return f"commit {commit()}; {libraries}; {describe_machine()}"


def _fill(row: Row, model: nn.Module, inputs: Any, config: str) -> None:
    qmodel = qpass.quantize_graph(model, [inputs], config, progress=False)
    report = qpass.quantization_report(qmodel)
    row.dynamic_batch, row.counts = report.dynamic_batch, dict(report.counts)
    row.stayed_float = dict(collections.Counter(f"{kind}: {reason}" for kind, _, reason in report.stayed_float))
    row.unrotated = dict(collections.Counter(what for what, _, _ in report.unrotated))
    others = _others(inputs)
    row.decibels = _decibels(model, qmodel, others)
    with tempfile.TemporaryDirectory() as folder:
        path = qpass.export_onnx(qmodel, Path(folder) / "model.onnx")
        verified = qpass.verify_onnx(qmodel, path, others, strict=False)
    layers = [layer for check in verified.checks for layer in check.layers]
    row.verified, row.ties = verified.passed, sum(layer.ties for layer in layers)
    row.wrong = sum(layer.wrong for layer in layers)
    row.error = "; ".join(failure for check in verified.checks for failure in check.failures)[:300]


def _others(inputs: Any) -> Any:
    """Returns inputs of the same shapes that did not calibrate."""
    if isinstance(inputs, Tensor):
        return inputs.flip(-2) if inputs.dim() > 1 else inputs.flip(0)
    return {name: tensor.flip(-1) for name, tensor in inputs.items()}


def _decibels(model: nn.Module, qmodel: nn.Module, inputs: Any) -> float:
    """Returns the lowest signal-to-error ratio of the floating outputs."""
    args, kwargs = model_inputs(inputs, model)
    with torch.no_grad():
        pairs = zip(_floats(model(*args, **kwargs)), _floats(qmodel(*args, **kwargs)), strict=True)
        return min(float(10 * torch.log10(y.square().sum() / (y - z).square().sum())) for y, z in pairs)


def _floats(outputs: Any) -> list[Tensor]:
    """Returns the floating tensors of a nested output in float64; mappings are read in order of keys."""
    if isinstance(outputs, Mapping):
        return [tensor for key in outputs for tensor in _floats(outputs[key])]
    leaves = pytree.tree_leaves(outputs)
    return [leaf.double() for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]
