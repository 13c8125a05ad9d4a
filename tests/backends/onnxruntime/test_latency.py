from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor, fx, nn

import qpass
from qpass.backends.onnx_qdq import export_float
from qpass.backends.onnxruntime.latency import LatencyReport, LatencyRow, benchmark
from qpass.errors import ConfigError, LoweringError
from qpass.graph.capture.trace import trace


@pytest.fixture(scope="module")
def float_file(vit: nn.Module, images: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_float(trace(vit, (images,)), tmp_path_factory.mktemp("float") / "float.onnx")


@pytest.mark.slow
def test_every_setting_has_a_row_and_the_baseline_is_one(exported: Path, float_file: Path) -> None:
    report = qpass.benchmark_latency(exported, baseline=float_file, batches=(1, 4), threads=(1, 2), runs=3, progress=False)
    settings = [(row.name, row.batch, row.threads) for row in report.rows]
    assert settings == [(name, b, t) for t in (1, 2) for b in (1, 4) for name in ("float", "quantized")]
    assert all(row.speedup == row.cpu_speedup == 1 for row in report.rows if row.name == "float")
    assert all(row.median_ms > 0 and row.spread >= 0 for row in report.rows)
    assert sum(report.fusion["quantized"].integer.values()) == 14
    assert report.to_dict()["fusion"]["quantized"]["unfused"] == []
    assert report.fusion["quantized"].integer_arithmetic == 1
    assert all((row.peak_share > 0) == (row.name == "quantized") for row in report.rows)
    assert report.footprints["quantized"].size_mb == pytest.approx(exported.stat().st_size / 1e6)
    assert f"quantized: {exported.stat().st_size / 1e6:.2f} MB, loads in" in str(report)


@pytest.mark.slow
def test_networks_of_other_runtimes_take_their_turns(float_file: Path) -> None:
    calls: list[tuple[int, int]] = []

    def make(batch: int, threads: int) -> Callable[[], None]:
        return lambda: calls.append((batch, threads))

    report = benchmark({"float": float_file}, baseline="float", others={"other": make}, batches=(1, 2), runs=3)
    assert calls == [(1, 1)] * 5 + [(2, 1)] * 5, "three runs and two for warm-up"
    assert [row.name for row in report.rows] == ["float", "other"] * 2
    assert set(report.footprints) == {"float"}


def test_waiting_takes_no_cpu_time(float_file: Path) -> None:
    others = {"waits": lambda *_: lambda: time.sleep(0.1)}
    row = benchmark({"float": float_file}, baseline="float", others=others, runs=3).rows[-1]
    assert row.cpu_speedup > 10 * row.speedup


@pytest.mark.slow
def test_a_graph_against_its_model(vit: nn.Module, quantized: fx.GraphModule) -> None:
    report = qpass.benchmark_latency(quantized, baseline=vit, runs=2, progress=False)
    assert [row.name for row in report.rows] == ["float", "quantized"]


def test_slower_files_and_unfused_pairs_are_warned_of() -> None:
    from qpass.backends.onnxruntime.latency import Fusion

    rows = (LatencyRow("float", 1, 1, 1.0, 0.0, 1.0, 0.0, 1.0), LatencyRow("q", 1, 1, 2.0, 0.0, 0.5, 0.1, 0.5))
    report = LatencyReport("float", "machine", rows, {"q": Fusion(0.0, {}, {"MatMul": 1}, ["dq_1"])}, {})
    assert report.warnings == [
        "q is slower than float at batch 1, 1 thread(s): 0.50 times its speed",
        "q: 1 Q/DQ pairs did not fuse (dq_1)",
    ]
    assert "warning: q is slower" in str(report)
    assert repr(report) == "<LatencyReport: q 0.50x against float, 2 rows>"


def test_bad_arguments_are_refused(exported: Path, float_file: Path, vit: nn.Module) -> None:
    with pytest.raises(ConfigError, match="no file is labelled 'b'"):
        benchmark({"a": exported}, baseline="b")
    with pytest.raises(ConfigError, match="runs=0"):
        benchmark({"a": exported}, baseline="a", runs=0)
    with pytest.raises(ConfigError, match="a float model cannot be compared with an ONNX file"):
        qpass.benchmark_latency(exported, baseline=vit)
    with pytest.raises(LoweringError, match="cannot load it"):
        benchmark({"a": exported, "b": Path(__file__)}, baseline="a", runs=1)
