"""Times files against a baseline: alternating runs, medians and spread, and integer fusions."""

from __future__ import annotations

import collections
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from qpass.backends.onnxruntime.arithmetic import integer_peak
from qpass.backends.onnxruntime.footprint import Footprint, footprint
from qpass.backends.onnxruntime.operators import FLOAT_PRODUCTS, INTEGER_PRODUCTS
from qpass.backends.onnxruntime.profiling import Profile, integer_arithmetic, integer_multiply_adds, profile_file
from qpass.backends.onnxruntime.session import OrtSession
from qpass.errors import ConfigError
from qpass.progress import track
from qpass.runtime.notebook import ShownAsText

#: Minimum timed rounds of a setting, however long they take.
_LEAST_ROUNDS = 5
#: Lower bound of a measured CPU time, below what clocks resolve.
_LEAST_SECONDS = 1e-9
#: (batch size, threads) -> a function that runs a network once.
Contender = Callable[[int, int], Callable[[], object]]


@dataclass(frozen=True)
class Fusion:
    """How onnxruntime fused a file.

    Attributes:
        integer_arithmetic: Share of the multiply-adds that are done on integers.
        integer: Count of each operator that multiplies integers.
        float: Count of each operator that still multiplies floats.
        unfused: Names of the remaining DequantizeLinear nodes, whose Q/DQ pairs did not fuse.
    """

    integer_arithmetic: float
    integer: Mapping[str, int]
    float: Mapping[str, int]
    unfused: Sequence[str]


@dataclass(frozen=True)
class LatencyRow:
    """One file at one batch size and thread count.

    Attributes:
        name: The file's label.
        batch: Batch size.
        threads: Intra-op threads.
        median_ms: Median time of one run, in milliseconds. It varies with machine and load; compare
            ``speedup``.
        spread: Interquartile range divided by the median.
        speedup: Baseline's median divided by this one's, timed in alternation; 1 for the baseline.
        peak_share: Integer operations per second, relative to one large uint8 x int8 product on
            this machine; 0 if nothing multiplies integers, or for other runtimes.
        cpu_speedup: Baseline's CPU time divided by this one's: medians of user and system time of the
            process, all threads. Less sensitive to other load than ``speedup``.
    """

    name: str
    batch: int
    threads: int
    median_ms: float
    spread: float
    speedup: float
    peak_share: float
    cpu_speedup: float


@dataclass(frozen=True, repr=False)
class LatencyReport(ShownAsText):
    """Result of ``benchmark_latency``. ``print`` it, or read its fields.

    Attributes:
        baseline: Name of the file that the others are compared with.
        machine: Processor and versions.
        rows: One row for each file and setting.
        fusion: How onnxruntime fused each file.
        footprints: Size, load time and memory of each file.
    """

    baseline: str
    machine: str
    rows: tuple[LatencyRow, ...]
    fusion: Mapping[str, Fusion]
    footprints: Mapping[str, Footprint]

    @property
    def warnings(self) -> list[str]:
        """One warning per file and setting slower than the baseline, and per file with unfused pairs."""
        found = [
            f"{row.name} is slower than {self.baseline} at batch {row.batch}, {row.threads} thread(s): "
            f"{row.speedup:.2f} times its speed"
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

    def __repr__(self) -> str:
        speeds = [f"{row.name} {row.speedup:.2f}x" for row in self.rows if row.name != self.baseline]
        return f"<LatencyReport: {', '.join(speeds) or 'nothing'} against {self.baseline}, {len(self.rows)} rows>"

    def __str__(self) -> str:
        lines = [
            self.machine,
            f"{'file':<28} {'batch':>5} {'threads':>7} {'median ms':>10} {'spread':>7} {'speedup':>8} "
            f"{'in CPU time':>12} {'of peak':>8}",
        ]
        lines += [
            f"{r.name:<28} {r.batch:>5} {r.threads:>7} {r.median_ms:>10.2f} {r.spread:>7.1%} "
            f"{r.speedup:>7.2f}x {r.cpu_speedup:>11.2f}x {r.peak_share:>8.0%}"
            for r in self.rows
        ]
        lines += [
            f"{name}: {cost.size_mb:.2f} MB, loads in {cost.load_ms:.0f} ms, takes {cost.peak_mb:.0f} MB of memory"
            for name, cost in self.footprints.items()
        ]
        for name, fusion in self.fusion.items():
            integer = ", ".join(f"{count} {op}" for op, count in fusion.integer.items()) or "none"
            lines.append(
                f"{name}: integer products: {integer} ({fusion.integer_arithmetic:.1%} of the multiply-adds); "
                f"float products: {sum(fusion.float.values())}"
            )
        return "\n".join(lines + [f"warning: {text}" for text in self.warnings])


def benchmark(
    files: Mapping[str, str | Path],
    *,
    baseline: str,
    others: Mapping[str, Contender] | None = None,
    batches: Sequence[int] = (1,),
    threads: Sequence[int] = (1,),
    runs: int = 30,
    seconds: float = math.inf,
    show_progress: bool = False,
) -> LatencyReport:
    """Times files in alternation, so that other load on the machine affects all of them alike.

    Args:
        files: Paths by label.
        baseline: Label of the file that the others are compared with.
        others: Networks in other runtimes to time in the same rounds, by label.
        batches: Batch sizes; a file with a fixed batch is timed at its own.
        threads: Thread counts.
        runs: Timed rounds, after a tenth as many (at least 2) for warm-up.
        seconds: Time limit of a setting: no new round begins after it, except the first five.
        show_progress: Show a progress bar.

    Raises:
        ConfigError: If the baseline is not among the files, or a count is not positive.
        LoweringError: If onnxruntime cannot load a file.
    """
    if baseline not in files:
        raise ConfigError(f"no file is labelled {baseline!r}", where="baseline", expected=f"one of {list(files)}")
    if runs < 1 or min(batches) < 1 or min(threads) < 1:
        raise ConfigError(f"runs={runs}, batches={batches}, threads={threads}", where="benchmark", expected="numbers above 0")
    profiles = {batch: {name: profile_file(path, batch=batch) for name, path in files.items()} for batch in batches}
    contenders = {name: file_contender(path) for name, path in files.items()} | dict(others or {})
    peaks = {count: integer_peak(count) for count in threads}
    rows: list[LatencyRow] = []
    settings = [(batch, count) for count in threads for batch in batches]
    for batch, count in track(settings, "time", show=show_progress):
        work = {name: integer_multiply_adds(profile.nodes) for name, profile in profiles[batch].items()}
        times = _alternate({name: make(batch, count) for name, make in contenders.items()}, runs, seconds)
        base, base_cpu = np.median(times[baseline], axis=0).tolist()
        for name, samples in times.items():
            low, median, high = np.percentile(samples[:, 0], [25, 50, 75]).tolist()
            share, cpu = 2 * work.get(name, 0) / median / peaks[count], max(float(np.median(samples[:, 1])), _LEAST_SECONDS)
            spread = (high - low) / median
            rows.append(LatencyRow(name, batch, count, median * 1e3, spread, base / median, share, base_cpu / cpu))
    return LatencyReport(
        baseline,
        describe_machine(),
        tuple(rows),
        {name: _fusion(profile) for name, profile in profiles[batches[0]].items() if name != baseline},
        {name: footprint(path, threads=min(threads)) for name, path in files.items()},
    )


def file_contender(path: str | Path) -> Contender:
    """Returns a contender that runs a file in onnxruntime on random inputs."""

    def make(batch: int, threads: int) -> Callable[[], object]:
        session = OrtSession(path, threads=threads, stop_spinning=True)
        feed = session.random_feed(batch)
        return lambda: session.session.run(None, feed)

    return make


def _alternate(runners: Mapping[str, Callable[[], object]], runs: int, seconds: float) -> dict[str, np.ndarray]:
    """Returns wall and CPU time of each run by runner: (runs, 2), in seconds."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runners}
    warm_up = max(2, runs // 10)
    end = time.perf_counter() + seconds
    for round_ in range(warm_up + runs):
        if round_ >= warm_up + _LEAST_ROUNDS and time.perf_counter() > end:
            break
        for name, run in runners.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            run()
            if round_ >= warm_up:
                times[name].append((time.perf_counter() - start, time.process_time() - start_cpu))
    return {name: np.array(samples) for name, samples in times.items()}


def fusion_of(path: str | Path) -> Fusion:
    """Loads a file with onnxruntime's defaults and returns how it fused."""
    return _fusion(profile_file(path))


def _fusion(profile: Profile) -> Fusion:
    counts = collections.Counter(node.op_type for node in profile.graph.node)
    return Fusion(
        integer_arithmetic(profile.nodes),
        {op: counts[op] for op in INTEGER_PRODUCTS if counts[op]},
        {op: counts[op] for op in FLOAT_PRODUCTS if counts[op]},
        [node.name or node.output[0] for node in profile.unfused],
    )


def describe_machine() -> str:
    """Returns the processor, its integer instructions and onnxruntime's version in one line."""
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
