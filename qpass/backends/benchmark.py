"""Times a quantized graph or file against a float baseline. Exports whatever is not a file yet."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from torch import fx, nn

from qpass.backends.onnx_qdq import export_float, export_quantized
from qpass.backends.onnxruntime import LatencyReport
from qpass.backends.onnxruntime.latency import benchmark
from qpass.errors import ConfigError
from qpass.graph.capture.trace import trace
from qpass.graph.device import on_cpu
from qpass.graph.edit import example_inputs


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
        files: dict[str, str | Path] = {}
        if isinstance(baseline, nn.Module):
            if not isinstance(quantized, fx.GraphModule):
                raise ConfigError(
                    "a float model cannot be compared with an ONNX file",
                    where="baseline",
                    expected="two files, or a model and its quantized graph",
                )
            files["float"] = export_float(trace(on_cpu(baseline), *example_inputs(quantized)), Path(folder) / "float.onnx")
        else:
            files["float"] = baseline
        if isinstance(quantized, fx.GraphModule):
            files["quantized"] = export_quantized(quantized, Path(folder) / "quantized.onnx")
        else:
            files["quantized"] = quantized
        return benchmark(files, baseline="float", batches=batches, threads=threads, runs=runs, show_progress=show_progress)
