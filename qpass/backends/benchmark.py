"""Times a quantized graph or file against a float baseline. Exports whatever is not a file yet."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from torch import fx, nn

from qpass.backends.onnx_qdq import export_float, export_quantized
from qpass.backends.onnxruntime import LatencyReport
from qpass.backends.onnxruntime.latency import benchmark
from qpass.backends.onnxruntime.operators import INTEGER_PRODUCTS
from qpass.errors import ConfigError
from qpass.graph.capture.trace import trace
from qpass.graph.device import on_cpu
from qpass.graph.edit import example_inputs

_QUANTIZED = {"DequantizeLinear", *INTEGER_PRODUCTS}


def benchmark_pair(
    quantized: str | Path | fx.GraphModule,
    baseline: str | Path | nn.Module,
    *,
    batches: Sequence[int],
    threads: Sequence[int],
    runs: int,
    show_progress: bool,
) -> LatencyReport:
    """See ``qpass.benchmark_latency``."""
    quantized = on_cpu(quantized) if isinstance(quantized, fx.GraphModule) else quantized
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(baseline, nn.Module):
            if not isinstance(quantized, fx.GraphModule):
                raise ConfigError(
                    "a float model cannot be compared with an ONNX file",
                    where="baseline",
                    expected="two files, or a model and its quantized graph",
                )
            graph = trace(on_cpu(baseline), *example_inputs(quantized))
            baseline = export_float(graph, Path(folder) / "float.onnx")
        if isinstance(quantized, fx.GraphModule):
            quantized = export_quantized(quantized, Path(folder) / "quantized.onnx")
        files = _labelled(baseline, quantized)
        first = next(iter(files))
        return benchmark(files, baseline=first, batches=batches, threads=threads, runs=runs, show_progress=show_progress)


def _labelled(baseline: str | Path, path: str | Path) -> dict[str, str | Path]:
    """Returns both files, the baseline first, as ``"float"`` and ``"quantized"``; by name if they are not.

    Raises:
        ConfigError: If the file is the baseline.
    """
    if Path(baseline).absolute() == Path(path).absolute():
        raise ConfigError("is the baseline too", where=str(path), expected="two files to compare")
    first = Path(baseline).name if _is_quantized(baseline) is True else "float"
    second = Path(path).name if _is_quantized(path) is False else "quantized"
    return {first: baseline, second: path} if first != second else {str(baseline): baseline, str(path): path}


def _is_quantized(path: str | Path) -> bool | None:
    """Returns whether a file holds quantized values; None if it is no ONNX file, which onnxruntime says."""
    try:
        nodes = onnx.load(path, load_external_data=False).graph.node
    except (OSError, DecodeError):
        return None
    return bool({node.op_type for node in nodes} & _QUANTIZED)
