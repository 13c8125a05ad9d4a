"""Timing files against a baseline: alternating runs, medians and spread, and what fused into integer operators."""

from __future__ import annotations

import collections
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from qpass.backends.onnxruntime.session import OrtSession
from qpass.errors import ConfigError
from qpass.progress import track

#: Operators of the optimised graph that multiply integers.
INTEGER_OPERATORS = (
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "QGemm",
    "QLinearMatMul",
    "QLinearConv",
    "ConvInteger",
    "QAttention",
    "MatMulNBits",
)
FLOAT_PRODUCTS = ("MatMul", "Gemm", "Conv", "FusedMatMul", "FusedConv", "FusedGemm", "Einsum")


@dataclass(frozen=True)
class Fusion:
    """What onnxruntime made of a file.

    Attributes:
        integer: Count of each operator that multiplies integers.
        float: Count of each operator that still multiplies floats.
        unfused: The DequantizeLinear nodes that were left, by name: their Q/DQ pairs did not fuse.
    """

    integer: Mapping[str, int]
    float: Mapping[str, int]
    unfused: Sequence[str]


@dataclass(frozen=True)
class LatencyRow:
    """One file at one batch size and thread count.

    Attributes:
        name: The file's label.
        batch: Batch size.
        threads: Threads inside an operator.
        median_ms: Median time of one run, in milliseconds: of this machine at this hour, read the ratio.
        spread: Interquartile range over the median.
        speedup: Baseline's median over this one's, timed in alternation; 1 for the baseline.
    """

    name: str
    batch: int
    threads: int
    median_ms: float
    spread: float
    speedup: float


@dataclass(frozen=True)
class LatencyReport:
    """What ``benchmark_latency`` found; ``print`` it, or read its fields."""

    baseline: str
    machine: str
    rows: tuple[LatencyRow, ...]
    fusion: Mapping[str, Fusion]

    @property
    def warnings(self) -> list[str]:
        """A sentence for every file and setting that is slower than the baseline, and for every file with pairs unfused."""
        found = [
            f"{row.name} is slower than {self.baseline} at batch {row.batch}, {row.threads} thread(s): {row.speedup:.2f} times its speed"
            for row in self.rows
            if row.speedup < 1
        ]
        for name, fusion in self.fusion.items():
            if fusion.unfused:
                shown = ", ".join(fusion.unfused[:4]) + (", ..." if len(fusion.unfused) > 4 else "")
                found.append(f"{name}: {len(fusion.unfused)} Q/DQ pairs did not fuse ({shown})")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data, for JSON."""
        return {**asdict(self), "warnings": self.warnings}

    def __str__(self) -> str:
        lines = [self.machine, f"{'file':<28} {'batch':>5} {'threads':>7} {'median ms':>10} {'spread':>7} {'speedup':>8}"]
        lines += [
            f"{r.name:<28} {r.batch:>5} {r.threads:>7} {r.median_ms:>10.2f} {r.spread:>7.1%} {r.speedup:>7.2f}x" for r in self.rows
        ]
        for name, fusion in self.fusion.items():
            integer = ", ".join(f"{count} {op}" for op, count in fusion.integer.items()) or "none"
            lines.append(f"{name}: integer products: {integer}; float products: {sum(fusion.float.values())}")
        return "\n".join(lines + [f"warning: {text}" for text in self.warnings])


def benchmark(
    files: Mapping[str, str | Path],
    *,
    baseline: str,
    batches: Sequence[int] = (1,),
    threads: Sequence[int] = (1,),
    runs: int = 30,
    show_progress: bool = False,
) -> LatencyReport:
    """Times files in alternation, so that what else the machine does falls on all alike.

    Args:
        files: Paths by label.
        baseline: Label of the file that the others are compared with.
        batches: Batch sizes; a file with a fixed batch is timed at its own.
        threads: Thread counts.
        runs: Timed rounds, after a tenth as many (at least 2) for warm-up.
        show_progress: Show a bar.

    Raises:
        ConfigError: If the baseline is not among the files, or a count is not positive.
        LoweringError: If onnxruntime cannot load a file.
    """
    if baseline not in files:
        raise ConfigError(f"no file is labelled {baseline!r}", where="baseline", expected=f"one of {list(files)}")
    if runs < 1 or min(batches) < 1 or min(threads) < 1:
        raise ConfigError(f"runs={runs}, batches={batches}, threads={threads}", where="benchmark", expected="numbers above 0")
    rows: list[LatencyRow] = []
    settings = [(batch, count) for count in threads for batch in batches]
    for batch, count in track(settings, "time", show=show_progress):
        sessions = {name: OrtSession(path, threads=count) for name, path in files.items()}
        times = _alternate(sessions, batch, runs)
        base = float(np.median(times[baseline]))
        for name, samples in times.items():
            low, median, high = np.percentile(samples, [25, 50, 75])
            rows.append(LatencyRow(name, batch, count, median * 1e3, (high - low) / median, base / median))
    fusion = {name: fusion_of(path) for name, path in files.items() if name != baseline}
    return LatencyReport(baseline, describe_machine(), tuple(rows), fusion)


def _alternate(sessions: Mapping[str, OrtSession], batch: int, runs: int) -> dict[str, np.ndarray]:
    feeds = {name: session.random_feed(batch) for name, session in sessions.items()}
    times: dict[str, list[float]] = {name: [] for name in sessions}
    warm_up = max(2, runs // 10)
    for round_ in range(warm_up + runs):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.session.run(None, feeds[name])
            if round_ >= warm_up:
                times[name].append(time.perf_counter() - start)
    return {name: np.array(samples) for name, samples in times.items()}


def fusion_of(path: str | Path) -> Fusion:
    """Loads a file as onnxruntime ships and tells what it made of it."""
    session = OrtSession(path, keep_graph=True)
    assert session.optimized_graph is not None
    counts = collections.Counter(session.operators)
    unfused = [node.name or node.output[0] for node in session.optimized_graph.node if node.op_type == "DequantizeLinear"]
    return Fusion(
        {op: counts[op] for op in INTEGER_OPERATORS if counts[op]},
        {op: counts[op] for op in FLOAT_PRODUCTS if counts[op]},
        unfused,
    )


def describe_machine() -> str:
    """Returns processor, its integer instructions, and versions, in one line."""
    model, flags = platform.processor() or platform.machine(), ""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        fields = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
        model = next((value.strip() for key, value in fields.items() if key.strip() == "model name"), model)
        known = next((value.split() for key, value in fields.items() if key.strip() == "flags"), [])
        flags = " ".join(flag for flag in ("avx2", "avx512_vnni", "avx_vnni", "amx_int8") if flag in known)
    except OSError:
        pass
    return f"{model} [{flags}], onnxruntime {ort.__version__}"
